"""Stage `validate`: quarantine what breaks the contract, report it, hand on the rest."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pandas as pd

from pipelines.ingest import TABLES
from telemetry.command import exit_code
from telemetry.sources import Telemetry
from telemetry.validation import RefusedError, ValidationResult, validate
from telemetry.validation_report import render, summary
from training.params import INTERIM, QUARANTINE, REPORTS, VALIDATED, read_json, start_logging, write_json

log = logging.getLogger(__name__)


def read(folder: Path) -> tuple[Telemetry, str]:
    """What the stage `ingest` wrote, and the name of its source."""
    told = read_json(folder / "source.json")
    tables = {table: pd.read_parquet(folder / f"{table}.parquet") for table in TABLES}
    return Telemetry(**tables, rows_read=told["rows_read"], notes=told["notes"]), told["source"]


def write(result: ValidationResult, source: str, validated: Path, quarantine: Path, reports: Path) -> None:
    """Write tables, quarantine and report; the same result gives the same bytes."""
    validated.mkdir(parents=True, exist_ok=True)
    for table in ("readings", "cycles", "batteries"):
        getattr(result, table).to_parquet(validated / f"{table}.parquet", compression="zstd", index=False)
    write_report(result, source, quarantine, reports)


def write_report(result: ValidationResult, source: str, quarantine: Path, reports: Path) -> None:
    """Write what was found, and nothing that could be learned from."""
    for folder in (quarantine, reports):
        folder.mkdir(parents=True, exist_ok=True)
    result.quarantine.to_parquet(quarantine / "quarantine.parquet", compression="zstd", index=False)
    result.quarantine.to_csv(quarantine / "quarantine.csv", index=False, lineterminator="\n")
    (reports / "validation.html").write_text(render(result, source), encoding="utf-8")
    write_json(reports / "validation.json", summary(result, source))


def main() -> None:
    start_logging()
    telemetry, source = read(INTERIM)
    try:
        result = validate(telemetry)
    except RefusedError as refused:
        # A person has to see which rows these were, though the stage fails.
        write_report(refused.result, source, QUARANTINE, REPORTS)
        log.info("what was found is in %s, row by row in %s", REPORTS / "validation.html", QUARANTINE)
        raise
    write(result, source, VALIDATED, QUARANTINE, REPORTS)
    log.info(
        "%d rows kept, %d quarantined of %d read (reports/validation.html)",
        len(result.readings) + len(result.cycles),
        len(result.quarantine),
        result.rows_read,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
