"""Stage `validate`: quarantine rows that violate the contract, write the validation report and the valid rows."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pandas as pd

from pipelines.ingest import TABLES
from telemetry.command import exit_code
from telemetry.sources import Telemetry
from telemetry.validation import ValidationFailedError, ValidationResult, validate
from telemetry.validation_report import render, summary
from training.params import INTERIM, QUARANTINE, REPORTS, VALIDATED, read_json, start_logging, write_json

log = logging.getLogger(__name__)


def read(folder: Path) -> tuple[Telemetry, str]:
    """Read the output of the stage `ingest`: the telemetry and the name of its source."""
    description = read_json(folder / "source.json")
    tables = {table: pd.read_parquet(folder / f"{table}.parquet") for table in TABLES}
    telemetry = Telemetry(**tables, rows_read=description["rows_read"], notes=description["notes"])
    return telemetry, description["source"]


def write(result: ValidationResult, source: str, validated: Path, quarantine: Path, reports: Path) -> None:
    """Write tables, quarantine and report; the same result always gives the same bytes."""
    validated.mkdir(parents=True, exist_ok=True)
    for table in ("readings", "cycles", "batteries"):
        getattr(result, table).to_parquet(validated / f"{table}.parquet", compression="zstd", index=False)
    write_report(result, source, quarantine, reports)


def write_report(result: ValidationResult, source: str, quarantine: Path, reports: Path) -> None:
    """Write the quarantine and the report, but no table that could be trained on."""
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
    except ValidationFailedError as error:
        # The stage fails, but its report must show which rows were the reason.
        write_report(error.result, source, QUARANTINE, REPORTS)
        log.info("report: %s; quarantined rows: %s", REPORTS / "validation.html", QUARANTINE)
        raise
    write(result, source, VALIDATED, QUARANTINE, REPORTS)
    log.info(
        "%d rows valid, %d quarantined of %d read (reports/validation.html)",
        len(result.readings) + len(result.cycles),
        len(result.quarantine),
        result.rows_read,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
