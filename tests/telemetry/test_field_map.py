"""Field maps: conversion of units, signs, times, codes and decimal commas, and error messages for invalid maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.contract import READING_FIELDS
from telemetry.errors import TwinError
from telemetry.field_map import SHIPPED, TABLES, UNITS, conversion, load_field_map, parse_field_map
from telemetry.sources.raw import RawTable
from telemetry.sources.translate import translate

FIELDS = {f.name: f for table in TABLES.values() for f in table}
COLUMNS = {"t": {"to": "time", "zone": "UTC"}, "u": "voltage", "i": "current", "k": "temperature"}


def table(**columns: list[str]) -> RawTable:
    cells = pd.DataFrame(columns, dtype="str")
    cells.index = pd.RangeIndex(1, len(cells) + 1)
    return RawTable("some.csv", cells, {}, tuple(columns))


def field_map(changes: dict[str, object] | None = None, **constants: object):
    return parse_field_map({"columns": {**COLUMNS, **(changes or {})}, "constants": constants}, "map.yaml")


@given(
    value=st.floats(-1e4, 1e4, allow_nan=False),
    unit=st.sampled_from([(target, source) for target, known in UNITS.items() for source in known]),
)
def test_units_round_trip(value: float, unit: tuple[str, str]) -> None:
    target = next(f for f in FIELDS.values() if f.unit == unit[0])
    factor, offset = conversion(target, unit[1])
    source_value = (value - offset) / factor
    assert factor * source_value + offset == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("target", "unit", "source_value", "expected"),
    [
        ("soc", "fraction", "0.5", 50.0),
        ("temperature", "degF", "212", 100.0),
        ("temperature", "K", "273.15", 0.0),
        ("voltage", "mV", "3700", 3.7),
        ("power_consumption", "kW", "1.5", 1500.0),
        ("odometer_km", "mile", "100", 160.9344),
        ("speed_kmh", "m/s", "10", 36.0),
        ("insulation_resistance", "MOhm", "5", 5000.0),
    ],
)
def test_unit_conversions(target: str, unit: str, source_value: str, expected: float) -> None:
    source = {"voltage": "u", "temperature": "k"}.get(target, "x")
    raw = table(t=["2026-01-01"], u=["1"], i=["2"], k=["3"], **({} if source in "uk" else {"x": ["0"]}))
    raw.cells[source] = [source_value]
    parsed = translate(raw, field_map({source: {"to": target, "unit": unit}}, battery_id="a"))
    assert parsed.kept[target].iloc[0] == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.floats(-4999.0, 4999.0), st.sampled_from([1, -1]))
def test_sign_changes_only_the_current(current: float, sign: int) -> None:
    raw = table(t=["2026-01-01"], u=["360"], i=[repr(current)], k=["20"])
    row = translate(raw, field_map({"i": {"to": "current", "sign": sign}}, battery_id="a")).kept.iloc[0]
    assert row["current"] == sign * current
    assert row["voltage"] == 360.0


@settings(max_examples=30, deadline=None)
@given(st.datetimes(pd.Timestamp("1971-01-01").to_pydatetime(), pd.Timestamp("2199-01-01").to_pydatetime()))
def test_time_formats_agree(time) -> None:
    time = pd.Timestamp(time, tz="UTC").floor("ms")
    texts = {
        "iso": time.isoformat(),
        "unix_ms": str(round(time.timestamp() * 1000)),
        "%Y/%m/%d %H-%M-%S.%f": time.strftime("%Y/%m/%d %H-%M-%S.%f"),
    }
    for layout, text in texts.items():
        time_map = field_map({"t": {"to": "time", "format": layout, "zone": "UTC"}}, battery_id="a")
        kept = translate(table(t=[text], u=["1"], i=["1"], k=["1"]), time_map).kept
        assert kept["time"].iloc[0] == time, layout


def test_zone_in_the_text_takes_precedence_over_the_map() -> None:
    raw = table(t=["2026-01-01 08:00:00", "2026-01-01T08:00:00+01:00"], u=["1"] * 2, i=["1"] * 2, k=["1"] * 2)
    kept = translate(raw, field_map({"t": {"to": "time", "zone": "+08:00"}}, battery_id="a")).kept
    assert kept["time"].dt.hour.tolist() == [0, 7]


def test_local_time_skipped_by_a_clock_change_is_rejected() -> None:
    raw = table(t=["2026-03-29 02:30:00"], u=["1"], i=["1"], k=["1"])
    parsed = translate(raw, field_map({"t": {"to": "time", "zone": "Europe/Berlin"}}, battery_id="a"))
    assert parsed.kept.empty
    assert "not a time in Europe/Berlin, whose clock skips it" in parsed.rejected["reason"].iloc[0]


def test_time_without_zone_is_an_error_with_advice() -> None:
    raw = table(t=["2026-01-01"], u=["1"], i=["1"], k=["1"])
    with pytest.raises(TwinError, match="add `zone: UTC`"):
        translate(raw, field_map({"t": "time"}, battery_id="a"))


def test_codes_missing_values_and_invalid_text() -> None:
    raw = table(
        t=["2026-01-01"] * 5,
        u=["1"] * 5,
        i=["1", "", "x", "inf", "2"],
        k=["1"] * 5,
        s=["1", "3.0", "254", "7", ""],
        o=["0"] * 5,
    )
    changes = {
        "s": {"to": "is_charging", "values": {1: True, 3: False, 254: None}},
        "o": {"to": "odometer_km", "missing": [0]},
    }
    parsed = translate(raw, field_map(changes, battery_id="a"))
    assert parsed.rejected["row"].tolist() == [3, 4]
    assert parsed.rejected["reason"].tolist() == [
        "current: not a number",
        "current: not a number; is_charging: not one of the codes 1, 3, 254",
    ]
    assert parsed.kept["is_charging"].tolist()[:2] == [1.0, 0.0]
    assert np.isnan(parsed.kept["is_charging"].iloc[2])
    assert parsed.kept["odometer_km"].isna().all()
    assert np.isnan(parsed.kept["current"].iloc[1]), "an empty cell is missing, which `validate` checks"
    assert any("o is 0 in 5 rows" in note for note in parsed.notes)


def test_decimal_comma_of_the_map_is_applied() -> None:
    raw = table(
        t=["2026-01-01"] * 5,
        u=["361,2", "-1,5e2", "361", "361.2", "1.234,5"],
        i=["-40,0"] * 5,
        k=["20"] * 5,
        o=["n.a.", "1", "1", "1", "1"],
    )
    columns = {**COLUMNS, "i": {"to": "current", "missing": [-40]}, "o": {"to": "odometer_km", "missing": ["n.a."]}}
    german = parse_field_map({"columns": columns, "constants": {"battery_id": "a"}, "decimal": ","}, "map.yaml")
    parsed = translate(raw, german)
    assert parsed.kept["voltage"].tolist() == [361.2, -150.0, 361.0]
    assert parsed.kept["current"].isna().all()
    assert parsed.rejected[["row", "value", "reason"]].to_numpy().tolist() == [
        [4, "361.2", "voltage: not a number"],
        [5, "1.234,5", "voltage: not a number"],
    ], "a point may separate thousands, so such a number is rejected"


def test_reason_suggests_decimal_where_the_map_lacks_it() -> None:
    raw = table(t=["2026-01-01"] * 3, u=["361,2", "many", "361.2"], i=["1"] * 3, k=["20"] * 3)
    parsed = translate(raw, field_map(battery_id="a"))
    assert parsed.kept["voltage"].tolist() == [361.2]
    assert parsed.rejected["reason"].tolist() == [
        'voltage: not a number; set `decimal: ","` in the field map',
        "voltage: not a number",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text", "must hold `key: value` lines"),
        ({"columns": {**COLUMNS, "x": "volts"}}, "columns.x.to is 'volts': it is not a field of the contract"),
        (
            {"columns": {**COLUMNS, "x": {"to": "soc", "unit": "mV"}}},
            "columns.x.unit is 'mV': it cannot be converted to soc; allowed: %, fraction",
        ),
        ({"columns": {**COLUMNS, "i": {"to": "current", "sign": -2}}}, "columns.i.sign is -2: it should be 1 or -1"),
        (
            {"columns": {**COLUMNS, "i": {"to": "current", "scale": 2}}},
            "columns.i.scale is not a parameter; valid are source, to, unit",
        ),
        ({"columns": {**COLUMNS, "t": {"to": "time", "zone": "Mars/Olympus"}}}, "is not a time zone"),
        ({"columns": {**COLUMNS, "u": {"to": "voltage", "zone": "UTC"}}}, "zone is for times"),
        ({"columns": {**COLUMNS, "t": {"to": "time", "sign": -1}}}, "sign is for numbers"),
        ({"columns": {k: v for k, v in COLUMNS.items() if k != "u"}}, "nothing is mapped to the required voltage"),
        ({"columns": {**COLUMNS, "x": "voltage"}}, "voltage is mapped twice"),
        ({"columns": COLUMNS, "constants": {"battery_id": "a b"}}, "must be 1 to 50 characters"),
        ({"columns": COLUMNS, "constants": {"soc": "full"}}, "cannot be a constant of soc"),
        ({"columns": COLUMNS, "table": "rows"}, "table is 'rows': it should be 'readings' or 'cycles'"),
        ({"columns": COLUMNS, "delimiter": ";;"}, "delimiter is ';;': String should have at most 1 character"),
        ({"columns": COLUMNS, "decimal": ";"}, "it should be '.' or ','"),
        ({"columns": COLUMNS, "encoding": "utf8000"}, "give one such as utf-8, cp1252 or utf-16"),
        ({"columns": COLUMNS, "encoding": "base64"}, "encoding is 'base64': it is not supported"),
        ({"columns": COLUMNS, "extra": 1}, "extra is not a parameter; valid are"),
    ],
)
def test_invalid_maps_are_refused_in_one_sentence(content: object, message: str) -> None:
    with pytest.raises(TwinError) as caught:
        parse_field_map(content, "map.yaml")
    assert message in caught.value.sentence
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize("name", sorted(p.stem for p in SHIPPED.glob("*.yaml")))
def test_shipped_maps_are_valid(name: str) -> None:
    assert load_field_map(name).columns


def test_eviot_does_not_map_labels_of_unknown_origin() -> None:
    eviot = load_field_map("eviot")
    assert {"RUL", "TTF", "Component_Health_Score"}.isdisjoint(c.source for c in eviot.columns)
    assert {f.name for f in READING_FIELDS if f.required} <= {c.target.name for c in eviot.columns} | set(
        eviot.constants
    )


def test_absent_and_malformed_map_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TwinError, match=r"one that ships .*eviot"):
        load_field_map("absent")
    broken = tmp_path / "broken.yaml"
    broken.write_text("columns: [")
    with pytest.raises(TwinError, match=r"broken\.yaml is not YAML"):
        load_field_map(broken)
