"""Every imported distribution is declared in pyproject.toml, and the check of `make lint` notices one that is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def deptry(config: Path) -> subprocess.CompletedProcess[str]:
    command = ["deptry", ".", "--no-ansi", "--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_import_is_declared() -> None:
    done = deptry(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["scipy", "uvicorn", "starlette", "anyio", "confluent-kafka", "pydantic-core"])
def test_an_undeclared_import_is_noticed(name: str, tmp_path: Path) -> None:
    """Negative control: with one line less."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines(keepends=True)
    rest = [line for line in lines if not line.startswith(f'    "{name}>=')]
    assert len(rest) == len(lines) - 1
    (tmp_path / "pyproject.toml").write_text("".join(rest), encoding="utf-8")
    done = deptry(tmp_path / "pyproject.toml")
    assert done.returncode == 1
    assert f"{name.replace('-', '_')}' imported but it is a transitive dependency" in done.stderr
