"""The simulator's machine code: compiled by one process for all, and given to clones of this repository.

Compiling takes a minute of processor time, and numba keeps the result beside the sources.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from simulator.fleet import SimulateParams, simulate_battery

ROOT = Path(__file__).resolve().parents[1]


def compile_simulator() -> None:
    """Compile what the simulation of a battery needs, unless its machine code is there; other processes wait for it."""
    folder = ROOT / "simulator" / "__pycache__"
    folder.mkdir(exist_ok=True)
    with (folder / "compiling.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        short = SimulateParams(years_in_service=(0.5, 0.5), telematics_faults=1.0)
        assert len(simulate_battery(short, 7, 0).readings) > 0


def copy_machine_code(clone: Path) -> None:
    """Copy the machine code to `clone`, whose sources have the same content and time of change."""
    compile_simulator()
    for package in ("simulator", "physics"):
        for file in (ROOT / package).rglob("__pycache__/*.nb[ci]"):
            copied = clone / file.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copied)
