"""Validation: valid, quarantined and refused data, the sign test and the report."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.contract import CYCLE_FIELDS, READING_FIELDS, Field, names
from telemetry.errors import TwinError
from telemetry.row_order import in_longest_increasing_subsequence
from telemetry.schemas import expectations
from telemetry.sign_test import sign_verdicts
from telemetry.sources import Telemetry, read_source
from telemetry.sources.base import ParsedFile, collect, complete, rejections
from telemetry.validation import ValidationFailedError, ValidationResult, validate
from telemetry.validation_report import render, summary
from tests.telemetry import source_files as files

START = pd.Timestamp("2026-01-01", tz="UTC")


def frame(rows: int = 200, *, battery_id: str = "EV-1", seed: int = 0) -> pd.DataFrame:
    """A drive in which voltage sags under load and the state of charge falls."""
    current = np.random.default_rng(seed).normal(20.0, 30.0, rows)
    table = pd.DataFrame(
        {
            "battery_id": battery_id,
            "time": (START + pd.to_timedelta(np.arange(rows) * 30.0, unit="s")).astype("datetime64[us, UTC]"),
            "voltage": 360.0 - 0.1 * current,
            "current": current,
            "temperature": 25.0,
            "soc": 90.0 - np.cumsum(current) * 30.0 / 3600.0 / 150.0 * 100.0,
            "source_file": "drive.csv",
            "source_row": np.arange(1, rows + 1),
        }
    )
    return complete(table, READING_FIELDS, ("source_file", "source_row"))


def telemetry(*frames: pd.DataFrame, notes: tuple[str, ...] = ()) -> Telemetry:
    return collect(readings=[ParsedFile(f, rejections()) for f in frames], notes=notes)


def failed(result: ValidationResult) -> dict[str, int]:
    return {rule.rule: rule.failed for rule in result.rules if rule.failed}


def test_valid_drive_passes_completely() -> None:
    result = validate(telemetry(frame()))
    assert len(result.readings) == 200
    assert list(result.readings) == names(READING_FIELDS)
    assert failed(result) == {}
    assert result.quarantine.empty


RANGED = [f for f in READING_FIELDS if f.minimum is not None or f.maximum is not None]


@pytest.fixture(scope="module")
def out_of_range() -> tuple[ValidationResult, dict[str, list[int]]]:
    """A drive in which every bounded field is once just below and once just above its range."""
    table = frame()
    broken: dict[str, list[int]] = {}
    for index, field in enumerate(RANGED):
        assert field.minimum is not None
        assert field.maximum is not None
        table.loc[2 * index, field.name] = field.minimum - 1e-3
        table.loc[2 * index + 1, field.name] = field.maximum * (1 + 1e-6) + 1e-3
        broken[field.name] = [2 * index + 1, 2 * index + 2]
    return validate(telemetry(table)), broken


@pytest.mark.parametrize("field", RANGED, ids=lambda f: f.name)
def test_every_bound_of_the_contract_is_a_rule(field: Field, out_of_range) -> None:
    result, broken = out_of_range
    rule = f"not from {field.minimum:g} to {field.maximum:g}"
    at_fault = result.quarantine[result.quarantine["field"] == field.name]
    if field.required:
        assert at_fault["row"].tolist() == broken[field.name]
        assert at_fault["reason"].str.startswith(f"{field.name}: {rule}").all()
    else:
        assert at_fault.empty, "an optional value never costs the row"
        (note,) = [note for note in result.notes if note.startswith(f"{field.name} of 2 readings is {rule}")]
        assert note.endswith("was taken as missing")
        kept = result.readings[field.name]
        assert kept.dropna().between(field.minimum, field.maximum).all()
        assert kept.isna().sum() >= 2


def test_bounds_are_inclusive() -> None:
    table = frame()
    for index, field in enumerate(RANGED):
        table.loc[2 * index, field.name] = field.minimum
        table.loc[2 * index + 1, field.name] = field.maximum
    assert failed(validate(telemetry(table))) == {}


@pytest.mark.parametrize("field", RANGED, ids=lambda f: f.name)
def test_changed_bound_changes_the_suite(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    narrower = dataclasses.replace(field, maximum=field.maximum - 1.0)
    changed = tuple(narrower if f is field else f for f in READING_FIELDS)
    before = suite_bounds("readings")
    monkeypatch.setitem(expectations.TABLES, "readings", changed)
    after = suite_bounds("readings")
    assert {name for name in before if before[name] != after[name]} == {field.name}
    assert after[field.name] == (field.minimum, field.maximum - 1.0)


def suite_bounds(table: str) -> dict[str, tuple[float, float]]:
    return {
        e.column: (e.min_value, e.max_value)
        for e in expectations.suite(table).expectations
        if e.expectation_type == "expect_column_values_to_be_between"
    }


@pytest.mark.parametrize("table", ["readings", "cycles", "batteries"])
def test_suite_covers_the_contract(table: str) -> None:
    fields = expectations.TABLES[table]
    made = expectations.suite(table).expectations
    by_type: dict[str, set[str]] = {}
    for expectation in made:
        by_type.setdefault(expectation.expectation_type, set()).add(expectation.column)
    every = {f.name for f in fields}
    assert by_type["expect_column_to_exist"] == by_type["expect_column_values_to_be_of_type"] == every
    assert by_type["expect_column_values_to_not_be_null"] == {f.name for f in fields if f.required}
    bounded = {f.name for f in fields if f.minimum is not None or f.kind == "time"}
    assert by_type["expect_column_values_to_be_between"] == bounded
    rules = [e.meta["rule"] for e in made]
    assert len(set(rules)) == len(rules)


@pytest.mark.parametrize("name", [f.name for f in READING_FIELDS if f.required and f.name != "battery_id"])
def test_missing_required_value_is_quarantined(name: str) -> None:
    table = frame()
    table.loc[5, name] = pd.NaT if name == "time" else np.nan
    result = validate(telemetry(table))
    assert result.quarantine[["row", "field", "reason"]].to_numpy().tolist() == [
        [6, name, f"{name}: missing, but required"]
    ]


def test_missing_optional_values_are_legal() -> None:
    table = frame()
    optional = [f.name for f in READING_FIELDS if not f.required and f.kind != "text"]
    table[optional] = np.nan
    assert failed(validate(telemetry(table))) == {}


def test_malformed_battery_ids_are_quarantined() -> None:
    table = frame()
    table.loc[3, "battery_id"] = "EV 1"
    table.loc[4, "battery_id"] = "x" * 51
    result = validate(dataclasses.replace(telemetry(frame()), readings=table))
    assert result.quarantine["row"].tolist() == [4, 5]
    assert result.quarantine["value"].tolist() == ["EV 1", "x" * 51]


def test_row_that_fails_several_rules_is_quarantined_once() -> None:
    table = frame()
    table.loc[0, ["voltage", "temperature", "current"]] = [-1.0, 999.0, 9999.0]
    result = validate(telemetry(table))
    assert len(result.quarantine) == 1
    row = result.quarantine.iloc[0]
    assert row["field"] == "voltage"
    assert row["reason"].count(";") == 2
    assert json.loads(row["content"])["temperature"] == 999.0
    assert sum(failed(result).values()) == 3


def test_duplicate_and_out_of_order_rows_are_quarantined() -> None:
    table = frame(100)
    table.loc[10, "time"] = table.loc[9, "time"]
    table.loc[50, "time"] = START - pd.Timedelta("1D")
    result = validate(telemetry(table, frame(100, battery_id="EV-2")))
    assert result.quarantine["row"].tolist() == [11, 51]
    assert result.quarantine["reason"].tolist() == [
        "time: duplicate of an earlier row of its battery",
        "time: out of order within its battery",
    ]
    assert failed(result) == {"time is unique within its battery": 1, "time increases": 1}


def test_one_clock_error_does_not_reject_the_rows_after_it() -> None:
    table = frame()
    table.loc[2, "time"] = pd.Timestamp("2099-01-01", tz="UTC")
    assert validate(telemetry(table)).quarantine["row"].tolist() == [3]


@given(st.lists(st.integers(0, 12), max_size=14), st.booleans())
def test_longest_increasing_subsequence_is_increasing_and_longest(values: list[int], strictly: bool) -> None:
    member = in_longest_increasing_subsequence(np.array(values, dtype=float), strictly=strictly)
    run = [value for value, kept in zip(values, member, strict=True) if kept]
    assert all(a < b if strictly else a <= b for a, b in itertools.pairwise(run))
    lengths: list[int] = []
    for i, value in enumerate(values):
        lengths.append(
            1
            + max((lengths[j] for j in range(i) if (values[j] < value if strictly else values[j] <= value)), default=0)
        )
    assert len(run) == max(lengths, default=0)


DAMAGE = st.lists(st.tuples(st.integers(0, 39), st.sampled_from(["voltage", "time", "soc", "twice"])), max_size=12)


@settings(max_examples=4, deadline=None)
@given(st.tuples(DAMAGE, DAMAGE, DAMAGE))
def test_rows_are_conserved(damage: tuple[list[tuple[int, str]], ...]) -> None:
    """Of three drives with damage of their own: most of the time of a validation does not depend on the rows."""
    drives = []
    for number, own in enumerate(damage, start=1):
        table = frame(40, battery_id=f"EV-{number}").assign(source_file=f"{number}.csv")
        for row, what in own:
            if what == "twice":
                table.loc[row] = table.loc[(row + 1) % 40]
                table.loc[row, "source_row"] = row + 1
            else:
                table.loc[row, what] = pd.NaT if what == "time" else -7.0
        drives.append(table)
    result = validate(telemetry(*drives))
    assert len(result.readings) + len(result.quarantine) == 3 * 40
    for number in (1, 2, 3):
        at_fault = result.quarantine.loc[result.quarantine["source_file"] == f"{number}.csv", "row"]
        kept_rows = set(range(1, 41)) - set(at_fault)
        assert len(kept_rows) == (result.readings["battery_id"] == f"EV-{number}").sum()
    per_table = summary(result, "x")["tables"]
    assert sum(t["read"] for t in per_table) == result.rows_read
    again = validate(
        telemetry(
            complete(
                result.readings.assign(source_file="x", source_row=1), READING_FIELDS, ("source_file", "source_row")
            )
        )
    )
    assert again.quarantine.empty, "valid rows stay valid"


def test_lost_row_is_detected() -> None:
    short = dataclasses.replace(telemetry(frame()), rows_read=201)
    with pytest.raises(AssertionError, match="200 rows kept and 0 quarantined, but 201 read"):
        validate(short)


def test_data_without_a_valid_row_is_refused() -> None:
    table = frame().assign(temperature=-300.0)
    with pytest.raises(TwinError, match=r"none of the 200 rows read is valid.*temperature: not from -50 to 150 degC"):
        validate(telemetry(table))
    with pytest.raises(TwinError, match="holds no rows"):
        validate(telemetry(frame(0)))


def test_missing_required_column_is_an_error() -> None:
    given_ = telemetry(frame())
    with pytest.raises(TwinError, match="required column current of readings is missing"):
        validate(dataclasses.replace(given_, readings=given_.readings.drop(columns="current")))


def test_column_of_the_wrong_type_is_an_error() -> None:
    given_ = telemetry(frame())
    texts = given_.readings.assign(voltage=given_.readings["voltage"].astype("str"))
    with pytest.raises((TwinError, RuntimeError), match="voltage"):
        validate(dataclasses.replace(given_, readings=texts))


def test_invalid_nominal_capacity_is_an_error() -> None:
    given_ = telemetry(frame())
    with pytest.raises(TwinError, match=r"battery EV-1: nominal_capacity_ah is -1.0, not from"):
        validate(dataclasses.replace(given_, batteries=given_.batteries.assign(nominal_capacity_ah=-1.0)))


def test_cycles_of_two_kinds_may_share_an_index() -> None:
    table = pd.DataFrame(
        {
            "battery_id": "A",
            "cycle_index": [1.0, 1.0, 2.0, 2.0, 1.5],
            "kind": ["charge", "discharge", "charge", "charge", "charge"],
        }
    ).assign(source_file="a.csv", source_row=range(1, 6))
    cycles = complete(table, CYCLE_FIELDS, ("source_file", "source_row"))
    result = validate(collect(cycles=[ParsedFile(cycles, rejections())]))
    assert result.quarantine["row"].tolist() == [4, 5]


# --- the sign of current ---------------------------------------------------------------------------------------------


def test_right_sign_passes_and_reversed_sign_is_refused() -> None:
    table = frame(400)
    assert [v.sign for v in sign_verdicts(table)] == [1]
    reversed_ = table.assign(current=-table["current"])
    with pytest.raises(ValidationFailedError, match=r"current looks reversed for EV-1.*`sign: -1`") as caught:
        validate(telemetry(reversed_))
    assert caught.value.result.refused == caught.value.sentence, "the report includes the reason"
    assert validate(telemetry(table)).refused is None


@pytest.mark.parametrize("signal", ["voltage", "soc"])
def test_one_correlation_suffices_for_a_sign_verdict(signal: str) -> None:
    table = frame(800)
    other = {"voltage": {"soc": np.nan}, "soc": {"voltage": 360.0}}[signal]
    alone = table.assign(**other)
    assert [v.sign for v in sign_verdicts(alone)] == [1]
    assert [v.sign for v in sign_verdicts(alone.assign(current=-alone["current"]))] == [-1]


def test_untestable_sign_gives_a_note_and_no_verdict() -> None:
    noise = np.random.default_rng(3)
    table = frame(2000).assign(voltage=noise.normal(360, 10, 2000), soc=noise.uniform(0, 100, 2000))
    few = frame(10, battery_id="EV-2")
    assert [v.sign for v in sign_verdicts(pd.concat([table, few]))] == [0, 0]
    notes = validate(telemetry(table, few)).notes
    assert notes == ["the sign of current could not be tested for 2 of 2 batteries (EV-1, EV-2)"]


def test_sampling_gaps_are_not_used_by_the_sign_test() -> None:
    table = frame(400)
    table["time"] = table["time"].iloc[0] + pd.to_timedelta(np.arange(400) * 3600.0, unit="s")
    assert [v.sign for v in sign_verdicts(table.assign(current=-table["current"]))] == [0]


def test_field_map_with_the_wrong_sign_is_caught(tmp_path: Path) -> None:
    """End to end: a car whose current is negative while discharging, read without `sign: -1`."""
    table = files.car(600)
    table["BMSBatteryCurrent"] *= -1
    files.ev_faults(tmp_path, table)
    with pytest.raises(TwinError, match="current looks reversed for car3"):
        validate(read_source("ev_faults", tmp_path))


# --- the report ------------------------------------------------------------------------------------------------------


def test_report_has_counts_and_escapes_html() -> None:
    table = frame()
    table.loc[0:4, "temperature"] = 200.0
    table.loc[7, "battery_id"] = "<script>alert(1)</script>"
    result = validate(dataclasses.replace(telemetry(frame(), notes=("a <b>note</b>",)), readings=table))
    counts = summary(result, "test")
    assert (counts["rows_read"], counts["rows_kept"], counts["rows_quarantined"]) == (200, 194, 6)
    reason = "temperature: not from -50 to 150 degC"
    assert counts["quarantine"][0] == {"table": "readings", "reason": reason, "rows": 5}
    assert {r["rule"]: r["failed"] for r in counts["rules"]}["temperature is from -50 to 150 degC"] == 5
    page = render(result, "test")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &lt;b&gt;note&lt;/b&gt;" in page
    assert "http" not in page, "self-contained"
    assert page == render(
        validate(dataclasses.replace(telemetry(frame(), notes=("a <b>note</b>",)), readings=table)), "test"
    )
