"""Tests of the live simulator's command line: `--check`, invalid arguments, and their check by `make run`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from simulator.live import main


def test_check_accepts_valid_arguments_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check", "--for", "60", "--inject", "overheating=#1@20s+15s", "--scenario", "hot-summer@60s"]) == 0
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "0"], "for_s is 0.0"),
        (["--speed", "nan"], "speed is nan"),
        (["--inject", "overheating"], "is no injection"),
        (["--scenario", "winter@1s"], "is no scenario"),
    ],
)
def test_an_invalid_option_value_gives_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", *arguments]) == 2
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--for", "abc"], ["--batteries", "0"], ["--nope"]])
def test_an_unknown_argument_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--check", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_make_run_passes_its_options_on() -> None:
    """`deploy.up` checks them before the pipeline, see tests/deploy/test_up.py."""
    root = Path(__file__).resolve().parents[2]
    command = ["make", "--dry-run", "run", "FOR=abc", "ARGS=--speed 2"]
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    modules = [line.split("-m ")[1].strip() for line in output.splitlines() if line.startswith("python -m ")]
    assert modules == ["deploy.up --train --for abc --speed 2"]
