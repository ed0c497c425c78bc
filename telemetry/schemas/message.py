"""JSON Schema, encoder and parser of the telemetry message of Kafka and MQTT.

The message is one reading as JSON in which `time` is called `timestamp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json

from telemetry.contract import BATTERY_ID_PATTERN, READING_FIELDS, Field, names
from telemetry.errors import TwinError
from telemetry.schemas.request import ContractRow, Reading, first_error, parse_row
from telemetry.wire import reading_message as encode

__all__ = ["FAULTS", "TIME_KEY", "Fault", "MessageError", "ParsedMessage", "encode", "json_schema", "parse_message"]

TIME_KEY = "timestamp"

#: Kinds of invalid messages: values of a metric label.
Fault = Literal["not_json", "not_an_object", "missing", "battery_id", "timestamp", "out_of_range", "wrong_type"]
FAULTS: tuple[Fault, ...] = (
    "not_json",
    "not_an_object",
    "missing",
    "battery_id",
    "timestamp",
    "out_of_range",
    "wrong_type",
)

_KEYS = frozenset(TIME_KEY if name == "time" else name for name in names(READING_FIELDS))
_FAULT_OF_FIELD: dict[object, Fault] = {"battery_id": "battery_id", "time": "timestamp"}
_FAULT_OF_RULE: dict[str, Fault] = {
    "missing": "missing",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
}


class MessageError(TwinError):
    """A message that is not a reading of the contract and has to be dead-lettered."""

    def __init__(self, fault: Fault, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence, field=field, value=value)
        self.fault = fault


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one message; other properties are allowed and ignored."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "EV battery telemetry reading",
        "type": "object",
        "properties": {(TIME_KEY if f.kind == "time" else f.name): _property(f) for f in READING_FIELDS},
        "required": [TIME_KEY if f.kind == "time" else f.name for f in READING_FIELDS if f.required],
    }


@dataclass(frozen=True)
class ParsedMessage:
    """A reading, whose attributes are the contract fields, with what was ignored in its message.

    Attributes:
        unknown: names of the fields that are not in the contract.
        out_of_range: names of the optional fields whose value is out of range and counts as missing.
    """

    reading: ContractRow
    unknown: list[str]
    out_of_range: list[str]


def parse_message(message: bytes | str) -> ParsedMessage:
    """The reading of a message.

    Raises:
        MessageError: naming the field and value at fault.
    """
    try:
        content = from_json(message)
    except ValueError as error:
        raise MessageError(
            "not_json", "the message is not JSON in UTF-8; send one JSON object for each reading"
        ) from error
    if not isinstance(content, dict):
        raise MessageError(
            "not_an_object", "the message is not a JSON object; send one for each reading", value=content
        )
    unknown = sorted(key for key in content if key not in _KEYS)
    known = {("time" if key == TIME_KEY else key): value for key, value in content.items() if key in _KEYS}
    if known.get("battery_id") is None:
        raise MessageError("missing", "battery_id is missing; it names the battery of the reading", field="battery_id")
    try:
        reading, dropped = parse_row(Reading, known)
    except ValidationError as error:
        raise _message_error(error) from error
    return ParsedMessage(reading, unknown, [value.field for value in dropped])


def _message_error(error: ValidationError) -> MessageError:
    first = error.errors(include_url=False)[0]
    field, rule = first["loc"][0], first["type"]
    fault = _FAULT_OF_FIELD.get(field) if rule != "missing" else None
    fault = fault or _FAULT_OF_RULE.get(rule, "wrong_type")
    described = first_error(error)
    if field != "time":
        return MessageError(fault, described.sentence, field=described.field, value=described.value)
    sentence = described.sentence.replace("time", TIME_KEY, 1)
    return MessageError(fault, sentence, field=TIME_KEY, value=described.value)


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
