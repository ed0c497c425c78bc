"""Virtual environments for reference tools that cannot share the project's, with locked versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path("var") / "environments"


def python_of(name: str, lock: Path) -> Path:
    """Python of the environment `name`, which is made from the hash-locked `lock` unless that was already done."""
    folder = ENVIRONMENTS / name
    python, ready = folder / "bin" / "python", folder / "installed.lock"
    if not ready.exists() or ready.read_bytes() != lock.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "--requirement", lock], check=True)
        ready.write_bytes(lock.read_bytes())
    return python.absolute()
