"""Copy a running system, such as the telemetry store, into files that the pipeline can be repeated on.

    python -m training.snapshot                # prints the folder: make repro SOURCE=timescale DATA=that folder

`make repro SOURCE=timescale` without DATA does both.  No stage of DVC: it would make another file of the same name
each time, and a run of the default source would ask for a database.
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
from training.params import load_params, parse_section


def take_snapshot(name: str, field_map: str | None = None) -> Path:
    """The folder of a new copy of the source `name`, as `snapshot` in params.yaml says.

    Raises:
        TwinError: the source is none that can be copied, or cannot be read.
    """
    entry = source(name)
    if entry.take is None:
        raise TwinError(f"the source {name} is files already; there is nothing to copy", field="source", value=name)
    params = parse_section(SnapshotParams, load_params()["snapshot"], "snapshot")
    return entry.take(Settings(), params, load_field_map(field_map) if field_map else None)


def main() -> None:
    """Take a snapshot and print its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="timescale", help="an entry of telemetry/sources that is a running system")
    parser.add_argument("--field-map", help="YAML with a table or query of your own in place of one of ours")
    arguments = parser.parse_args()
    print(take_snapshot(arguments.source, arguments.field_map))


if __name__ == "__main__":
    sys.exit(exit_code(main))
