"""Stage `ingest`: read the configured source into the columns and units of the contract, without validating it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from telemetry.command import exit_code
from telemetry.parameters import load_params
from telemetry.sources import Telemetry, read_source
from training.params import INTERIM, start_logging, write_json

log = logging.getLogger(__name__)

TABLES: tuple[str, ...] = ("readings", "cycles", "batteries", "rejected")


def ingest(params: dict[str, Any]) -> Telemetry:
    """Read the configured source."""
    source = params["source"]
    return read_source(
        source["name"],
        source["path"],
        field_map=source["field_map"],
        batteries=source["batteries"],
        defaults=params["battery_defaults"],
    )


def write(telemetry: Telemetry, source: str, folder: Path) -> None:
    """Write the tables and `source.json`; the same telemetry always gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        getattr(telemetry, table).to_parquet(folder / f"{table}.parquet", compression="zstd", index=False)
    write_json(folder / "source.json", {"source": source, "rows_read": telemetry.rows_read, "notes": telemetry.notes})


def main() -> None:
    start_logging()
    params = load_params()
    telemetry = ingest(params)
    write(telemetry, params["source"]["name"], INTERIM)
    log.info(
        "%s: %d rows read: %d readings, %d cycles, %d rejected; %d batteries",
        params["source"]["name"],
        telemetry.rows_read,
        len(telemetry.readings),
        len(telemetry.cycles),
        len(telemetry.rejected),
        len(telemetry.batteries),
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
