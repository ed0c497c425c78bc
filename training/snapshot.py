"""Snapshot of a database source, such as the telemetry database, as files on which a DVC run can be repeated.

    python -m training.snapshot                # prints the folder: make repro SOURCE=timescale DATA=that folder

`make repro SOURCE=timescale` without DATA does both.  Not a DVC stage: its output would differ in every run, and a
run of the default source would need a database.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from telemetry.command import exit_code
from telemetry.errors import TwinError
from telemetry.field_map import load_field_map
from telemetry.settings import Settings
from telemetry.sources import source
from telemetry.stores.snapshot import SnapshotParams


def take_snapshot(name: str, field_map: str | None = None) -> Path:
    """Copy the source `name` as configured in `snapshot` of params.yaml; the folder of the copy.

    Raises:
        TwinError: the source consists of files already, or cannot be read.
    """
    entry = source(name)
    if entry.take_snapshot is None:
        raise TwinError(f"the source {name} consists of files already", field="source", value=name)
    params = SnapshotParams.read()
    return entry.take_snapshot(Settings(), params, load_field_map(field_map) if field_map else None)


def main() -> None:
    """Take a snapshot and print its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="timescale", help="an entry of telemetry/sources that reads a database")
    parser.add_argument("--field-map", help="YAML with your own table or query in place of a default one")
    arguments = parser.parse_args()
    print(take_snapshot(arguments.source, arguments.field_map))


if __name__ == "__main__":
    sys.exit(exit_code(main))
