"""Request models, message schema and SQL columns that are derived from the contract."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, EARLIEST, LATEST, READING_FIELDS, Field
from telemetry.errors import TwinError
from telemetry.schemas import message
from telemetry.schemas.request import (
    Battery,
    Cycle,
    PredictRequest,
    Reading,
    parse_model,
    parse_request,
    unknown_fields,
)

READING = {"time": "2026-01-01T00:00:00Z", "voltage": 361.2, "current": 42.0, "temperature": 27.5}
ROWS = {Reading: (READING_FIELDS, READING), Cycle: (CYCLE_FIELDS, {"cycle_index": 3.0}), Battery: (BATTERY_FIELDS, {})}
BOUNDED = [(m, f) for m, (fields, _) in ROWS.items() for f in fields if f.minimum is not None]
FLOATS = [(m, f) for m, (fields, _) in ROWS.items() for f in fields if f.kind == "float"]


def by_name(value: object) -> str | None:
    return value.name if isinstance(value, Field) else None


def request(**reading: object) -> dict[str, object]:
    return {"batteries": [{"battery_id": "EV-7", "readings": [{**READING, **reading}]}]}


def refusal(content: object) -> TwinError:
    """The error of a request that cannot be read, or of its first entry."""
    try:
        (first, *_) = parse_request(content).errors
        error = TwinError(first.sentence, field=first.field, value=first.value)
    except TwinError as refused:
        error = refused
    assert "\n" not in error.sentence
    json.dumps({"error": error.sentence, "field": error.field, "value": error.value}, allow_nan=False)
    return error


@pytest.mark.parametrize("model", ROWS)
def test_models_have_the_fields_of_the_contract(model: type) -> None:
    fields, _ = ROWS[model]
    assert list(model.model_fields) == [f.name for f in fields]
    required = {name for name, info in model.model_fields.items() if info.is_required()}
    assert required == {f.name for f in fields if f.required and f.name != "battery_id"}


@pytest.mark.parametrize(("model", "field"), BOUNDED, ids=by_name)
def test_models_check_the_bounds_of_the_contract(model: type, field: Field) -> None:
    _, row = ROWS[model]
    parse_model(model, {**row, field.name: field.minimum})
    with pytest.raises(TwinError, match=field.name):
        parse_model(model, {**row, field.name: field.minimum - 1.0})
    if field.maximum is not None:
        parse_model(model, {**row, field.name: field.maximum})
        with pytest.raises(TwinError, match=field.name):
            parse_model(model, {**row, field.name: field.maximum * 1.001 + 1.0})


@pytest.mark.parametrize(("model", "field"), FLOATS, ids=by_name)
@pytest.mark.parametrize("value", ["12", True, math.inf, -math.inf, [1.0]])
def test_strings_booleans_and_infinity_are_refused_as_numbers(model: type, field: Field, value: object) -> None:
    with pytest.raises(TwinError, match=field.name):
        parse_model(model, {**ROWS[model][1], field.name: value})


@pytest.mark.parametrize("missing", [None, math.nan])
def test_null_and_nan_are_missing(missing: object) -> None:
    optional = {f.name: missing for f in READING_FIELDS if not f.required}
    assert parse_model(Reading, {**READING, **optional}) == parse_model(Reading, READING)
    assert refusal(request(voltage=missing)).sentence == "batteries[0].readings[0].voltage is missing; it is required"


@pytest.mark.parametrize(
    ("content", "field", "message_part"),
    [
        (request(time="2026-01-01T00:00:00"), "batteries[0].readings[0].time", "must carry a zone"),
        (request(time=1767225600), "batteries[0].readings[0].time", "must be a time with zone"),
        (request(time="1767225600000"), "batteries[0].readings[0].time", "must be a time with zone"),
        (request(time="2026-02-30T00:00:00Z"), "batteries[0].readings[0].time", "day value is outside"),
        (
            request(temperature=500),
            "batteries[0].readings[0].temperature",
            "500: input should be less than or equal to 150",
        ),
        (request(is_charging="perhaps"), "batteries[0].readings[0].is_charging", "must be true or false"),
        (request(battery_id="other"), "batteries[0]", "send each battery's rows in its own entry"),
        ({"batteries": []}, "batteries", "at least one"),
        ({"batteries": {}}, "batteries", "must be a list"),
        ({"batteries": [{"battery_id": "a/b"}]}, "batteries[0].battery_id", "must be 1 to 50 characters"),
        ({"batteries": [{"battery_id": "a", "cycles": [{}]}]}, "batteries[0].cycles[0].cycle_index", "is required"),
        ({}, "batteries", "is missing"),
        (None, "the request", "must be an object"),
        ([1], "the request", "must be an object"),
    ],
)
def test_errors_name_path_value_and_rule(content: object, field: str, message_part: str) -> None:
    error = refusal(content)
    assert error.field == field
    assert message_part in error.sentence


def test_unknown_fields_are_ignored_and_counted() -> None:
    content = request(colour="red", timestamp="2026-01-01T00:00:00Z")
    content["batteries"].append({"battery_id": "EV-8", "battery": {"colour": 1}, "readings": None, "mood": "good"})
    content["version"] = 2
    parsed = parse_request(content)
    assert parsed.batteries[0].battery.readings[0] == parse_model(Reading, READING)
    assert unknown_fields(content) == {"colour": 2, "timestamp": 1, "mood": 1, "version": 1}


@given(
    st.fixed_dictionaries(
        {f.name: st.floats(f.minimum, f.maximum) for f in READING_FIELDS if f.kind == "float" and f.required},
        optional={
            f.name: st.none() | st.floats(f.minimum, f.maximum)
            for f in READING_FIELDS
            if f.kind == "float" and not f.required
        },
    ),
    st.datetimes(EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None), timezones=st.just(UTC)),
)
def test_message_round_trip(values: dict[str, float | None], time) -> None:
    row = {"battery_id": "EV-1", "time": time, **values}
    parsed = message.parse_message(message.encode(row))
    assert (parsed.unknown, parsed.out_of_range) == ([], [])
    assert {k: v for k, v in parsed.reading.model_dump().items() if v is not None} == {
        k: v for k, v in row.items() if v is not None
    }


@pytest.mark.parametrize(
    ("raw", "field", "message_part"),
    [
        (b"\xff", None, "not JSON"),
        (b"[1]", None, "not a JSON object"),
        (
            b'{"timestamp": "2026-01-01T00:00:00Z", "voltage": 1, "current": 1, "temperature": 1}',
            "battery_id",
            "is missing",
        ),
        (b'{"battery_id": "a", "voltage": 1, "current": 1, "temperature": 1}', "timestamp", "timestamp is missing"),
        (
            b'{"battery_id": "a", "timestamp": "x", "voltage": 1, "current": 1, "temperature": 1}',
            "timestamp",
            "with zone",
        ),
        (
            b'{"battery_id": "a", "timestamp": "2026-01-01T00:00:00Z", "voltage": 1, "current": 1}',
            "temperature",
            "is missing",
        ),
    ],
)
def test_invalid_messages_are_refused(raw: bytes, field: str | None, message_part: str) -> None:
    with pytest.raises(TwinError, match=message_part) as caught:
        message.parse_message(raw)
    assert caught.value.field == field


def test_unknown_fields_of_a_message_are_ignored_and_returned() -> None:
    raw = json.dumps({"battery_id": "a", "timestamp": READING["time"], **READING, "colour": "red"})
    parsed = message.parse_message(raw)
    assert parsed.unknown == ["colour", "time"], "messages call it `timestamp`"
    assert parsed.reading.voltage == 361.2


def test_json_schema_matches_the_contract() -> None:
    schema = message.json_schema()
    assert set(schema["properties"]) == {f.name for f in READING_FIELDS} - {"time"} | {"timestamp"}
    assert set(schema["required"]) == {"battery_id", "timestamp", "voltage", "current", "temperature"}
    assert schema["properties"]["soc"]["maximum"] == 100.0


def test_request_models_do_not_import_pandas_or_great_expectations() -> None:
    """The import time of the service must not include them."""
    heavy = "{'pandas', 'great_expectations', 'numpy'}"
    code = f"import sys; import telemetry.schemas.request; print({heavy} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_one_unreadable_entry_does_not_cost_the_others() -> None:
    content = request()
    content["batteries"] += [
        {"battery_id": "EV-8", "readings": [{**READING, "voltage": None}]},
        {"battery_id": "EV-9", "readings": [READING, {**READING, "soc": 102, "soh": math.inf}]},
        "EV-10",
    ]
    parsed = parse_request(content)
    assert [one.index for one in parsed.batteries] == [0, 2]
    assert [(one.index, one.battery_id, one.status, one.field) for one in parsed.errors] == [
        (1, "EV-8", 422, "batteries[1].readings[0].voltage"),
        (3, None, 422, "batteries[3]"),
    ]
    assert [(value.field, value.value) for value in parsed.batteries[1].out_of_range] == [
        ("soc", 102),
        ("soh", math.inf),
    ]
    reading = parsed.batteries[1].battery.readings[1]
    assert (reading.soc, reading.soh, reading.voltage) == (None, None, 361.2)


def test_optional_value_out_of_range_does_not_cost_a_message() -> None:
    row = {"battery_id": "a", "timestamp": READING["time"], **READING, "soc": 102, "temperature": 80.0}
    parsed = message.parse_message(json.dumps(row))
    assert parsed.out_of_range == ["soc"]
    assert (parsed.reading.soc, parsed.reading.temperature) == (None, 80.0)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z", "2200-01-01T00:00:01Z"])
def test_times_outside_of_the_contract_are_refused(time: str) -> None:
    assert refusal(request(time=time)).field == "batteries[0].readings[0].time"


@pytest.mark.parametrize(
    ("value", "shown"), [(True, "true"), ([1, None], "[1, null]"), ({"a": False}, '{"a": false}'), ("x" * 500, "x…")]
)
def test_sentence_of_an_invalid_value_shows_it_as_json_and_short(value: object, shown: str) -> None:
    reading = {"time": "2026-01-01T00:00:00Z", "voltage": value, "current": 1.0, "temperature": 20.0}
    with pytest.raises(TwinError) as caught:
        parse_model(PredictRequest, {"batteries": [{"battery_id": "EV-1", "readings": [reading]}]})
    assert f"{shown}: must be a number" in caught.value.sentence
    assert len(caught.value.sentence) < 200
