"""Message parser of the stream scorer: valid forms of readings, and dead letters with reasons."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import state_update
from serving.stream.message_parser import RAW_BYTES, REJECTION_REASONS, Message, ParserLimits, parse_messages
from telemetry.contract import READING_FIELDS
from tests.features.conftest_features import drive

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LIMITS = ParserLimits(message_bytes=65_536, future_s=300.0)
READING = {
    "battery_id": "EV-7",
    "timestamp": "2026-01-01T00:00:00Z",
    "voltage": 361.2,
    "current": 42.0,
    "temperature": 27.5,
}


def message(content: bytes | str | dict[str, Any], key: bytes | None = b"EV-7") -> Message:
    raw = json.dumps(content) if isinstance(content, dict) else content
    value = raw if isinstance(raw, bytes) else raw.encode()
    return Message(key, LIMITS.cut(value), len(value))


BAD: list[tuple[str, Message, str | None]] = [
    ("not_json", message(b"\x00\xff\xfe not json"), None),
    ("not_json", message(b""), None),
    ("not_json", message('{"battery_id": "EV-7"'), None),
    ("not_json", message("[" * 10_000), None),
    ("not_an_object", message("[1, 2]"), None),
    ("not_an_object", message("NaN"), None),
    ("missing", message({**READING, "voltage": None}), "voltage"),
    ("missing", message({**READING, "current": math.nan}), "current"),
    ("missing", message({key: value for key, value in READING.items() if key != "battery_id"}), "battery_id"),
    ("missing", message({key: value for key, value in READING.items() if key != "timestamp"}), "timestamp"),
    ("wrong_type", message({**READING, "voltage": "361.2"}), "voltage"),
    ("wrong_type", message({**READING, "temperature": True}), "temperature"),
    ("wrong_type", message({**READING, "soc": [80]}), "soc"),
    ("wrong_type", message({**READING, "is_charging": "perhaps"}), "is_charging"),
    ("out_of_range", message({**READING, "temperature": 1e9}), "temperature"),
    ("out_of_range", message({**READING, "voltage": math.inf}), "voltage"),
    ("wrong_type", message('{"battery_id": "EV-7", "timestamp": "2026-01-01T00:00:00Z", "voltage": 1' + "0" * 400 +
                             ', "current": 1, "temperature": 2}'), "voltage"),
    ("battery_id", message({**READING, "battery_id": "EV 7; DROP TABLE"}), "battery_id"),
    ("battery_id", message({**READING, "battery_id": 7}), "battery_id"),
    ("timestamp", message({**READING, "timestamp": "yesterday"}), "timestamp"),
    ("timestamp", message({**READING, "timestamp": "2026-01-01T00:00:00"}), "timestamp"),
    ("timestamp", message({**READING, "timestamp": 1767225600}), "timestamp"),
    ("timestamp", message({**READING, "timestamp": "0001-01-01T00:00:00+14:00"}), "timestamp"),
    ("future", message({**READING, "timestamp": "2026-03-01T00:05:01Z"}), "timestamp"),
    ("timestamp", message({**READING, "timestamp": "9999-12-31T23:59:59-14:00"}), "timestamp"),
    ("too_large", message({**READING, "note": "x" * 10_000_000}), None),
    ("wrong_key", message(READING, key=b"EV-8"), "battery_id"),
    ("wrong_key", message(READING, key=None), "battery_id"),
    ("wrong_key", message(READING, key=b"\xff"), "battery_id"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "bad", "field"), BAD)
def test_invalid_message_becomes_a_dead_letter_with_a_reason(reason: str, bad: Message, field: str | None) -> None:
    readings, (dead_letter,) = parse_messages([message(READING), bad, message(READING)], LIMITS, NOW)
    assert len(readings.message_index) == 2
    assert readings.message_index.tolist() == [0, 2]
    assert dead_letter.reason == reason
    assert dead_letter.field == field
    sent = orjson.loads(dead_letter.encode(NOW))
    assert set(sent) - {"size_bytes"} == {"reason", "field", "received_at", "raw"}
    assert sent["reason"]
    assert sent["received_at"] == "2026-03-01T00:00:00Z"
    assert len(dead_letter.encode(NOW)) < 10 * RAW_BYTES < 1_000_000
    assert sent.get("size_bytes", len(bad.value)) == bad.size


def test_every_rejection_reason_is_tested() -> None:
    assert {reason for reason, _, _ in BAD} == set(REJECTION_REASONS)


@pytest.mark.parametrize(
    "more",
    [
        {"soc": None, "ambient_temperature": math.nan},
        {"colour": "blue", "time": "any", "nested": {"a": [1]}},
        {"is_charging": True, "charge_cycles": 12},
        {"timestamp": "2026-03-01T00:04:59Z"},
        {"timestamp": "2026-01-01T02:00:00.123456+02:00"},
    ],
)
def test_unusual_valid_message_is_a_reading(more: dict[str, Any]) -> None:
    readings, dead_letters = parse_messages([message({**READING, **more})], LIMITS, NOW)
    assert not dead_letters
    assert readings.batch.matrix[0, 1:4].tolist() == [361.2, 42.0, 27.5]
    assert readings.unknown_fields == len(more.keys() - {field.name for field in READING_FIELDS} - {"timestamp"}) + (
        "time" in more
    )


def test_limit_on_future_times_can_be_disabled() -> None:
    ahead = message({**READING, "timestamp": (NOW + timedelta(days=4000)).isoformat()})
    readings, dead_letters = parse_messages([ahead], ParserLimits(65_536, math.inf), NOW)
    assert len(readings.message_index) == 1
    assert not dead_letters


def test_matrix_equals_that_of_the_feature_pipeline() -> None:
    frame = drive(np.arange(0, 1000, 10.0))
    rows = frame.assign(timestamp=frame["time"].map(lambda time: time.isoformat())).drop(columns="time")
    messages = [message(row, key=b"EV-0") for row in rows.to_dict("records")]
    readings, dead_letters = parse_messages(messages, LIMITS, NOW)
    assert not dead_letters
    assert np.array_equal(readings.batch.matrix, state_update.readings_matrix(frame), equal_nan=True)


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)
NAMES = ["timestamp" if field.name == "time" else field.name for field in READING_FIELDS]
NEARLY_VALID = st.dictionaries(st.sampled_from(NAMES), JSON).map(
    lambda wrong: json.dumps({**READING, **wrong}).encode()
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(value=st.binary(max_size=200) | NEARLY_VALID, key=st.none() | st.binary(max_size=60) | st.just(b"EV-7"))
def test_any_message_is_a_reading_or_a_dead_letter(value: bytes, key: bytes | None) -> None:
    readings, dead_letters = parse_messages([Message(key, value, len(value))], LIMITS, NOW)
    assert len(readings.message_index) + len(dead_letters) == 1
    for dead_letter in dead_letters:
        assert dead_letter.reason in REJECTION_REASONS
        assert orjson.loads(dead_letter.encode(NOW))["reason"]
