"""Writes the tables of a simulated fleet in parts, so that a run that was stopped can be continued.

A part is the tables of some batteries.  Each of its files is written under a temporary name and renamed, so that a file
with its own name is complete; the batteries come last.  The manifest holds everything that the rows depend on.  Nothing
in the files depends on the time, the machine or the number of workers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
from rich.progress import Progress

from simulator.worker_processes import run_in_workers
from telemetry.errors import TwinError
from telemetry.fleet_layout import BATTERIES, CYCLES, LAYOUT, MANIFEST, READINGS, part_file

#: True state of each battery at its logs: for comparison with predictions; no source and no feature reads it.
TRUTH = "truth"
TABLES = (READINGS, CYCLES, TRUTH, BATTERIES)
_TEMPORARY = ".incomplete"


#: Tables (`TABLES`) of a part by its number; of module level, or a `partial` of such a function.
PartMaker = Callable[[int], Mapping[str, pd.DataFrame]]


def write_parts(
    folder: Path, manifest: dict[str, object], parts: int, make: PartMaker, *, workers: int, progress: Progress
) -> int:
    """Make and write the parts of a fleet that `folder` lacks; their number.

    Args:
        manifest: what the rows depend on: numbers, texts, lists and dictionaries, as JSON has them.
        parts: number of parts of the fleet.

    Raises:
        TwinError: the folder holds another fleet, with the first entry that differs, or other files, or is in use.
    """
    with only_writer(folder):
        _begin_or_continue(folder, manifest | {"layout": LAYOUT, "parts": parts})
        wanted = _unfinished(folder, parts)
        task = progress.add_task("parts", total=parts, completed=parts - len(wanted))
        for _ in run_in_workers(partial(_make_and_write, folder, make), wanted, workers):
            progress.advance(task)
    return len(wanted)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which the kernel releases when this process ends, and remove what a killed one left.

    Raises:
        TwinError: another process writes a fleet into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TwinError(
                f"another process writes a fleet into {folder}; wait for its end, or give another --out",
                field="--out",
                value=str(folder),
            ) from error
        for left in folder.glob(f"**/*{_TEMPORARY}"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def write_part(folder: Path, part: int, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables of a part, one for each of `TABLES`; the same tables always give the same bytes."""
    for table in TABLES:
        path = folder / part_file(table, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
        tables[table].to_parquet(temporary, compression="zstd", index=False)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)


def _make_and_write(folder: Path, make: PartMaker, part: int) -> None:
    write_part(folder, part, make(part))


def _begin_or_continue(folder: Path, manifest: Mapping[str, object]) -> None:
    """Write the manifest of a new fleet, or check that `folder` holds a part of the same one."""
    file = folder / MANIFEST
    if file.is_file():
        _require_same(file, manifest)
    elif folder.is_dir() and any(_foreign_files(folder)):
        raise TwinError(
            f"{folder} has other files and no {MANIFEST}; give --out a new or empty folder",
            field="--out",
            value=str(folder),
        )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}{_TEMPORARY}")
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)


def _unfinished(folder: Path, parts: int) -> list[int]:
    """Numbers of the parts that lack a file."""
    return [part for part in range(parts) if not all((folder / part_file(table, part)).is_file() for table in TABLES)]


def _foreign_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.endswith(_TEMPORARY))


def _require_same(file: Path, manifest: Mapping[str, object]) -> None:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TwinError(
            f"{file} is damaged; delete the folder, or give another --out", field="--out", value=str(file)
        ) from error
    # As JSON has it: a tuple is a list there.
    wanted = _flat(json.loads(json.dumps(manifest)))
    found = _flat(stored) if isinstance(stored, dict) else {}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            raise TwinError(
                f"{file.parent} holds a fleet with {name} {json.dumps(found.get(name))}, not "
                f"{json.dumps(wanted.get(name))}; continue it with that value, or give another --out",
                field=name,
                value=wanted.get(name),
            )


def _flat(entries: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Entries by dotted name."""
    flat: dict[str, object] = {}
    for name, value in entries.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
