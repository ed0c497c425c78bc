"""Validates training data against the contract; rows that fail a rule are quarantined with their reason.

Great Expectations runs the rules that are derived from the contract (telemetry/schemas/expectations.py).  No row is
dropped silently: rows kept + rows quarantined = rows read, asserted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from telemetry.contract import Field
from telemetry.errors import TwinError
from telemetry.row_order import duplicates, out_of_order
from telemetry.schemas.expectations import DUPLICATE, OUT_OF_ORDER, TABLES, great_expectations, suite
from telemetry.sign_test import check_signs, sign_verdicts
from telemetry.sources.base import PROVENANCE, REJECTED_COLUMNS, Telemetry, complete

#: Rule that counts the rows that could not be parsed.
READABLE = "row is readable"


@dataclass(frozen=True)
class RuleResult:
    """Rows checked by one rule and rows that failed it."""

    table: str
    rule: str
    checked: int
    failed: int


@dataclass(frozen=True)
class ValidationResult:
    """Valid rows in contract columns, quarantined rows and counts by rule.

    Attributes:
        quarantine: REJECTED_COLUMNS, one row for each quarantined row: the first field at fault, its value, every
            reason, and the row's content as JSON: contract columns or, where it could not be parsed, the file's cells.
        rules: counts by rule, in the order of the contract; a row may fail several.
        rows_read: rows in the files.
        refused: why the data as a whole is refused; None where it is accepted.
    """

    readings: pd.DataFrame
    cycles: pd.DataFrame
    batteries: pd.DataFrame
    quarantine: pd.DataFrame
    rules: list[RuleResult]
    rows_read: int
    notes: list[str]
    refused: str | None = None


class ValidationFailedError(TwinError):
    """The data as a whole is refused; `result` holds the validation result for the report."""

    def __init__(self, cause: TwinError, result: ValidationResult) -> None:
        super().__init__(cause.sentence, field=cause.field, value=cause.value)
        self.result = replace(result, refused=cause.sentence)


def validate(telemetry: Telemetry) -> ValidationResult:
    """Validate the data of a source.

    Raises:
        TwinError: the data cannot be validated: no row, or a required column missing.
        ValidationFailedError: the data is refused: no valid row, an impossible battery, or a current of the wrong sign.
    """
    if telemetry.rows_read == 0:
        raise TwinError("the source holds no rows; check source.path", field="source.path")
    readings, bad_readings, reading_rules, reading_notes = _validate_table("readings", telemetry.readings)
    cycles, bad_cycles, cycle_rules, cycle_notes = _validate_table("cycles", telemetry.cycles)
    quarantine = pd.concat([telemetry.rejected, bad_readings, bad_cycles], ignore_index=True)[list(REJECTED_COLUMNS)]
    kept = len(readings) + len(cycles)
    if kept + len(quarantine) != telemetry.rows_read:
        raise AssertionError(f"{kept} rows kept and {len(quarantine)} quarantined, but {telemetry.rows_read} read")
    result = ValidationResult(
        readings=readings,
        cycles=cycles,
        batteries=telemetry.batteries,
        quarantine=quarantine,
        rules=[*_readable_rules(telemetry), *reading_rules, *cycle_rules],
        rows_read=telemetry.rows_read,
        notes=[*telemetry.notes, *reading_notes, *cycle_notes],
    )
    try:
        _require_valid_rows(result)
        battery_rules = _validate_batteries(telemetry.batteries)
        sign_notes = check_signs(sign_verdicts(readings)) if len(readings) else []
    except TwinError as error:
        raise ValidationFailedError(error, result) from error
    return replace(result, rules=[*result.rules, *battery_rules], notes=[*result.notes, *sign_notes])


def _require_valid_rows(result: ValidationResult) -> None:
    if len(result.readings) or len(result.cycles):
        return
    most = result.quarantine["reason"].value_counts()
    raise TwinError(
        f"none of the {result.rows_read} rows read is valid; most frequent reason ({most.iloc[0]} rows):"
        f" {most.index[0]}",
        field=str(result.quarantine["field"].mode().iloc[0]),
    )


def _readable_rules(telemetry: Telemetry) -> list[RuleResult]:
    rejected = telemetry.rejected["table"].value_counts()
    parsed = {"readings": len(telemetry.readings), "cycles": len(telemetry.cycles)}
    counts = {
        table: (rows + int(rejected.get(table, 0)), int(rejected.get(table, 0))) for table, rows in parsed.items()
    }
    return [RuleResult(table, READABLE, checked, failed) for table, (checked, failed) in counts.items() if checked]


def _validate_table(table: str, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[RuleResult], list[str]]:
    """(kept rows in contract columns, quarantined rows, counts by rule, notes) of readings or cycles.

    A row whose optional value is out of range is kept without the value.
    """
    fields = TABLES[table]
    _require_columns(frame, fields, table)
    if frame.empty:
        return complete(frame, fields), _quarantined(table, frame, []), [], []
    order = "time" if table == "readings" else "cycle_index"
    # Several sessions may end at the same age of a pack that counts whole cycles; readings never share a time.
    duplicate = duplicates(frame, ["battery_id", order] + ([] if table == "readings" else ["kind", "end_time"]))
    misplaced = out_of_order(frame, order, strictly=table == "readings", excluded=duplicate)
    outcome = _run_suite(table, frame.assign(**{DUPLICATE: duplicate, OUT_OF_ORDER: misplaced}))
    faults = [(meta, rows) for _, meta, rows in outcome if rows and not meta["clears"]]
    kept = frame.drop(index=sorted({row for _, rows in faults for row in rows}))
    notes = []
    for _, meta, rows in outcome:
        if rows and meta["clears"]:
            kept.loc[kept.index.intersection(rows), meta["field"]] = None
            notes.append(f"{meta['field']} of {len(rows)} {table} is {meta['reason']} and was taken as missing")
    return complete(kept, fields), _quarantined(table, frame, faults), [rule for rule, _, _ in outcome], notes


def _validate_batteries(batteries: pd.DataFrame) -> list[RuleResult]:
    """Counts by rule; an invalid battery is an error, because all its readings are interpreted with it."""
    outcome = _run_suite("batteries", complete(batteries, TABLES["batteries"]))
    for _, meta, rows in outcome:
        if rows:
            at_fault = batteries.iloc[rows[0]]
            raise TwinError(
                f"battery {at_fault['battery_id']}: {meta['field']} is {at_fault[meta['field']]}, {meta['reason']};"
                " correct the batteries table or battery_defaults",
                field=meta["field"],
                value=at_fault[meta["field"]],
            )
    return [rule for rule, _, _ in outcome]


def _run_suite(table: str, frame: pd.DataFrame) -> list[tuple[RuleResult, dict[str, Any], list[int]]]:
    """Run the table's suite: for each expectation its counts, its meta and the index labels of failing rows."""
    gx = great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas(table).add_dataframe_asset(table)
    batch = asset.add_batch_definition_whole_dataframe(table).get_batch({"dataframe": frame})
    results = batch.validate(suite(table), result_format={"result_format": "COMPLETE"})
    order = {f.name: index for index, f in enumerate(TABLES[table])}
    outcome = []
    for result in results.results:
        meta = dict(result.expectation_config.meta)
        if result.exception_info.get("raised_exception"):
            raise RuntimeError(f"rule {meta['rule']} of {table} could not be run: {result.exception_info}")
        rows = [int(row) for row in result.result.get("unexpected_index_list") or []]
        if not result.success and not rows:
            raise TwinError(
                f"the table {table} breaks the rule '{meta['rule']}'; correct the source", field=meta["field"]
            )
        outcome.append((RuleResult(table, meta["rule"], len(frame), len(rows)), meta, rows))
    return sorted(outcome, key=lambda o: (order[o[1]["field"]], o[0].rule))


def _require_columns(frame: pd.DataFrame, fields: Sequence[Field], table: str) -> None:
    for field in fields:
        if field.required and field.name not in frame:
            raise TwinError(
                f"the required column {field.name} of {table} is missing; map a column to it in the field map",
                field=field.name,
            )


def _quarantined(table: str, frame: pd.DataFrame, faults: list[tuple[dict[str, Any], list[int]]]) -> pd.DataFrame:
    """One row for each failed row: the first field at fault in the contract's order, and every reason."""
    first: dict[int, str] = {}
    reasons: dict[int, list[str]] = {}
    for meta, rows in faults:
        for row in rows:
            first.setdefault(row, meta["field"])
            reasons.setdefault(row, []).append(f"{meta['field']}: {meta['reason']}")
    bad = sorted(first)
    rows_at_fault = frame.loc[bad]
    content = rows_at_fault.drop(columns=list(PROVENANCE)).to_json(
        orient="records", lines=True, date_format="iso", date_unit="us"
    )
    fields = pd.Series(first, dtype="str").reindex(bad)
    values = pd.Series("", index=fields.index, dtype="str")
    for name, at in fields.groupby(fields).groups.items():
        given = rows_at_fault.loc[at, str(name)]
        values[at] = given.astype("str").where(given.notna(), "")
    return pd.DataFrame(
        {
            "table": pd.Series([table] * len(bad), dtype="str"),
            "source_file": rows_at_fault[PROVENANCE[0]].astype("str").to_numpy(),
            "row": rows_at_fault[PROVENANCE[1]].astype("int64").to_numpy(),
            "field": fields.to_numpy(),
            "value": values.to_numpy(),
            "reason": pd.Series(["; ".join(reasons[row]) for row in bad], dtype="str"),
            "content": pd.Series([line for line in content.split("\n") if line], dtype="str"),
        }
    )
