"""`python -m telemetry.spool`: prints the rows that a sink refused, with the reason."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from telemetry.settings import Settings
from telemetry.spool.spool import read_quarantined


def main() -> int:
    """Print one line for each quarantined row: the sink, the reason, the row."""
    parser = argparse.ArgumentParser(prog="python -m telemetry.spool", description=__doc__)
    parser.add_argument("--path", type=Path, default=Settings().spool_path, help="the spool's file")
    path: Path = parser.parse_args().path
    if not path.exists():
        print(f"{path} does not exist: name the spool's file with --path", file=sys.stderr)
        return 2
    rows = read_quarantined(path)
    for row in rows:
        print(f"{row.consumer}\t{row.reason}\t{row.kind}\t{row.body.decode()}")
    print(f"{len(rows)} rows quarantined", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
