"""The telemetry message of Kafka and MQTT: its JSON schema, and back and forth between rows and bytes.

The message is one reading as JSON in which `time` is called `timestamp`.
"""

from __future__ import annotations

import json
from typing import Any

from data.contract import BATTERY_ID_PATTERN, READING_FIELDS, Field, names
from data.errors import TwinError
from data.schemas.request import Reading, parse
from data.wire import reading_message as encode

__all__ = ["TIME_KEY", "decode", "encode", "json_schema"]

TIME_KEY = "timestamp"

_KEYS = frozenset(TIME_KEY if name == "time" else name for name in names(READING_FIELDS))


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one message; other properties are allowed and ignored."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "EV battery telemetry reading",
        "type": "object",
        "properties": {(TIME_KEY if f.kind == "time" else f.name): _property(f) for f in READING_FIELDS},
        "required": [TIME_KEY if f.kind == "time" else f.name for f in READING_FIELDS if f.required],
    }


def decode(message: bytes | str) -> tuple[dict[str, Any], list[str]]:
    """The row of a message and the names of its fields that are not in the contract.

    The row has every reading field, None where missing; `time` is an aware datetime.

    Raises:
        TwinError: naming the field and value at fault; the message belongs into the dead letters then.
    """
    try:
        content = json.loads(message)
    except (UnicodeDecodeError, ValueError) as error:
        raise TwinError("the message is not JSON in UTF-8; send one JSON object for each reading") from error
    if not isinstance(content, dict):
        raise TwinError("the message is not a JSON object; send one for each reading", value=content)
    unknown = sorted(str(key) for key in content if key not in _KEYS)
    known = {("time" if key == TIME_KEY else key): value for key, value in content.items() if key in _KEYS}
    if known.get("battery_id") is None:
        raise TwinError("battery_id is missing; it says which battery the reading is of", field="battery_id")
    try:
        return parse(Reading, known).model_dump(), unknown
    except TwinError as error:
        if error.field != "time":
            raise
        raise TwinError(error.sentence.replace("time", TIME_KEY, 1), field=TIME_KEY, value=error.value) from error


def _property(field: Field) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": " ".join(w for w in (field.description, f"[{field.unit}]" if field.unit else "") if w)
    }
    if field.kind == "time":
        return described | {"type": "string", "format": "date-time"}
    if field.kind == "text":
        return described | {"type": "string", "pattern": BATTERY_ID_PATTERN}
    kind = "boolean" if field.kind == "bool" else "number"
    bounds = {"minimum": field.minimum, "maximum": field.maximum}
    return (
        described
        | {"type": kind if field.required else [kind, "null"]}
        | {k: v for k, v in bounds.items() if v is not None}
    )
