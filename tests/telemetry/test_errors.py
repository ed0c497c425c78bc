"""Messages and error bodies show values as JSON has them."""

from __future__ import annotations

import json
import math
import time

import pytest

from telemetry.errors import TwinError, error_body, text_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ({"soc": None, "on": True}, '{"soc": null, "on": true}'),
        ([None], "[null]"),
        (1.5, "1.5"),
        ("None", "'None'"),  # text that was sent
        ("x" * 100, "'" + "x" * 59 + "…"),
    ],
)
def test_text_of(value: object, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    "value", [None, True, 2.5, math.nan, {"a": [None, True]}, "x" * 1000, [1] * 1000, {1, 2}, b"x"]
)
def test_error_body_is_small_valid_json_without_words_of_python(value: object) -> None:
    body = json.dumps(error_body(TwinError("A sentence.", field="f", value=value)), allow_nan=False)
    assert len(body) < 400
    assert not any(word in body for word in ("None", "True", "False"))


def test_large_value_is_not_converted_as_a_whole() -> None:
    large = [{"battery_id": "EV-1", "soc": None}] * 3_000_000
    started = time.perf_counter()
    assert "null" in str(error_body(TwinError("A sentence.", value=large))["value"])
    assert time.perf_counter() - started < 0.5
