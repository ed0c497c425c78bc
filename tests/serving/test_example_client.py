"""The example client against a running service: four predictions, and a kept state that continues the log."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "examples" / "EV-0057.csv"
NAMES = ["soh", "temperature", "rul", "failure_probability"]


def predict(log: Path, service: httpx.Client) -> dict[str, str]:
    command = [sys.executable, str(ROOT / "examples" / "client.py"), str(log), str(service.base_url).rstrip("/")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(lines) == NAMES
    return lines


def test_the_whole_log_gives_four_values_and_halves_give_the_same(service: httpx.Client, tmp_path: Path) -> None:
    whole = shutil.copy(LOG, tmp_path / "EV-0057.csv")
    predicted = predict(whole, service)
    for name, value in predicted.items():
        assert float(value.split()[0]) > 0.0, f"{name}: {value}"
    lines = LOG.read_text(encoding="utf-8").splitlines(keepends=True)
    half = tmp_path / "half.csv"
    half.write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    first = predict(half, service)
    assert first != predicted
    half.write_text("".join([lines[0], *lines[len(lines) // 2 :]]), encoding="utf-8")
    assert predict(half, service) == predicted, "the kept state continues the log"


def test_a_rejected_log_is_explained(service: httpx.Client, tmp_path: Path) -> None:
    log = tmp_path / "EV-1.csv"
    log.write_text("time,voltage,current\n2026-01-01T00:00:00Z,360,1\n", encoding="utf-8")
    command = [sys.executable, str(ROOT / "examples" / "client.py"), str(log), str(service.base_url).rstrip("/")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "temperature" in done.stderr
    assert not log.with_suffix(".state").exists()


@pytest.mark.parametrize("document", ["README.md"])
def test_the_curl_of_the_document_prints_predictions_and_no_state(
    service: httpx.Client, document: str, tmp_path: Path
) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    command = next(block for block in text.split("```sh\n")[1:] if block.startswith("curl")).partition("```")[0]
    command = command.replace("http://127.0.0.1:3100", str(service.base_url).rstrip("/"))
    command = command.replace("python ", f"{sys.executable} ")
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == NAMES
    assert len(done.stdout) < 500
