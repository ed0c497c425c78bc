"""Pydantic models of the prediction request, derived from the contract, and their validation errors.

`null`, an absent field and NaN all mean 'missing' and are legal where a field is optional.  A field that
is not in the contract is ignored; `unknown_fields` counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Annotated, Any, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic import Field as PydanticField

from telemetry.contract import (
    BATTERY_FIELDS,
    BATTERY_ID,
    BATTERY_ID_PATTERN,
    CYCLE_FIELDS,
    EARLIEST,
    LATEST,
    READING_FIELDS,
    Field,
)
from telemetry.errors import TwinError, text_of

#: Characters of an invalid value that an error message shows.
_SHOWN = 100

#: pydantic's error types in words for the sender of a request.
_RULES = {
    "string_pattern_mismatch": "must be 1 to 50 characters of A-Z a-z 0-9 _ . -",
    "timezone_aware": "must carry a zone, e.g. 2026-01-01T00:00:00Z",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "model_type": "must be an object",
    "tuple_type": "must be a list",
    "too_short": "must hold at least one entry",
}

#: pydantic's error types for a value of the right type that is out of its range.
_RANGE_RULES = frozenset({"greater_than_equal", "less_than_equal", "finite_number"})
_OPTIONAL = frozenset(field.name for field in (*READING_FIELDS, *CYCLE_FIELDS, *BATTERY_FIELDS) if not field.required)

M = TypeVar("M", bound=BaseModel)


def _rfc3339(value: object) -> object:
    # pydantic would take "1767225600" for Unix seconds; the contract allows RFC 3339 only.
    if isinstance(value, datetime) or (isinstance(value, str) and len(value) >= 11 and value[4] == "-"):
        return value
    raise ValueError("must be a time with zone such as 2026-01-01T00:00:00Z")


Time = Annotated[AwareDatetime, PydanticField(ge=EARLIEST, le=LATEST), BeforeValidator(_rfc3339)]
BatteryId = Annotated[str, StringConstraints(pattern=BATTERY_ID_PATTERN)]


class ContractRow(BaseModel):
    """A row of a contract table; missing values (None, NaN) are removed before validation."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_missing(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if value is not None and value == value}


def _row_model(name: str, doc: str, fields: Iterable[Field], optional: tuple[str, ...] = ()) -> type[ContractRow]:
    """A model with one attribute for each field; the surrounding entry may give the fields in `optional` instead."""
    definitions: dict[str, Any] = {}
    for field in fields:
        kind = _type(field)
        required = field.required and field.name not in optional
        about = PydanticField(... if required else None, description=field.description or None)
        definitions[field.name] = (kind if required else kind | None, about)
    return create_model(name, __base__=ContractRow, __doc__=doc, **definitions)


def _type(field: Field) -> Any:
    if field.kind == "time":
        return Time
    if field.kind == "bool":
        return bool
    if field.kind == "text":
        return BatteryId if field.name == "battery_id" else Annotated[str, StringConstraints(max_length=200)]
    # Strict: "12" and true are not numbers.  Infinity is refused even where the contract sets no bound.
    return Annotated[
        float,
        PydanticField(
            strict=True, ge=field.minimum, le=field.maximum, allow_inf_nan=False, json_schema_extra={"unit": field.unit}
        ),
    ]


Reading = _row_model("Reading", "One telemetry reading.", READING_FIELDS, optional=("battery_id",))
Cycle = _row_model("Cycle", "One cycle, as in the table battery_cycles.", CYCLE_FIELDS, optional=("battery_id",))
Battery = _row_model("Battery", "Nominal data of a battery.", BATTERY_FIELDS, optional=("battery_id",))


class BatteryRequest(BaseModel):
    """One battery: its nominal data, its last state and its readings and cycles since."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    battery_id: BatteryId
    state: str | None = PydanticField(None, description="opaque, from the last response")
    battery: Battery | None = None  # type: ignore[valid-type]
    readings: tuple[Reading, ...] = PydanticField((), description="in time order")  # type: ignore[valid-type]
    cycles: tuple[Cycle, ...] = PydanticField((), description="in order of cycle_index")  # type: ignore[valid-type]

    @field_validator("readings", "cycles", mode="before")
    @classmethod
    def _null_is_none(cls, rows: object) -> object:
        return () if rows is None else rows

    @model_validator(mode="after")
    def _rows_of_this_battery(self) -> BatteryRequest:
        named = {row.battery_id for row in (*self.readings, *self.cycles)} - {None, self.battery_id}
        if named:
            raise ValueError(
                f"rows of {sorted(named)[0]} are in the entry of {self.battery_id}; send each battery's rows in its own"
                " entry"
            )
        return self


class _Options(BaseModel):
    """What a request asks for besides the predictions."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    every_reading: bool = PydanticField(
        False,
        strict=True,
        description="one entry of the response for each reading, in their order, instead of one for each battery; "
        "a battery without readings still has one",
    )

    closed_cycles: bool = PydanticField(
        False,
        strict=True,
        description="adds to each entry the charge and discharge sessions that had ended by then, as in battery_cycles",
    )

    reasons: bool = PydanticField(
        False,
        strict=True,
        description="adds to the predictions of remaining life and failure the features that contribute most",
    )

    @field_validator("every_reading", "closed_cycles", "reasons", mode="before")
    @classmethod
    def _null_is_false(cls, value: object) -> object:
        return False if value is None else value


class PredictRequest(_Options):
    """The body of POST /predict."""

    batteries: tuple[BatteryRequest, ...] = PydanticField(min_length=1)


class _Envelope(_Options):
    """The body of POST /predict with entries that are not validated."""

    batteries: tuple[Any, ...] = PydanticField(min_length=1)


def parse_model(model: type[M], content: object) -> M:
    """`content` as `model`.

    Raises:
        TwinError: the first validation error, with its JSON path and the value that was sent.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise first_error(error) from error


@dataclass(frozen=True)
class OutOfRange:
    """An optional value out of its range, which counts as missing."""

    field: str
    value: object


def parse_row(model: type[M], content: object) -> tuple[M, list[OutOfRange]]:
    """`content` as `model`, and its optional values out of range, which count as missing.

    Those values are deleted from `content`.

    Raises:
        pydantic.ValidationError: another rule is violated.
    """
    try:
        return model.model_validate(content), []
    except ValidationError as error:
        dropped = [_drop(content, found["loc"]) for found in error.errors(include_url=False) if _may_be_dropped(found)]
        if not dropped:
            raise
    return model.model_validate(content), dropped


def _may_be_dropped(error: Any) -> bool:
    return error["type"] in _RANGE_RULES and bool(error["loc"]) and error["loc"][-1] in _OPTIONAL


def _drop(content: Any, location: tuple[int | str, ...]) -> OutOfRange:
    *path, name = location
    for part in path:
        content = content[part]
    return OutOfRange(str(name), content.pop(name))


@dataclass(frozen=True)
class ParsedBattery:
    """One readable entry of a request, with its optional values out of range."""

    index: int
    battery: BatteryRequest
    out_of_range: list[OutOfRange]


@dataclass(frozen=True)
class EntryError:
    """Why an entry of a request is not answered, with the HTTP status that stands for the kind of error.

    Attributes:
        index: of the entry in the request.
        battery_id: None where it could not be read.
        field: JSON path in the request.
    """

    index: int
    battery_id: str | None
    status: int
    sentence: str
    field: str | None
    value: object


@dataclass(frozen=True)
class ParsedRequest:
    """A request whose entries were read one by one: one that cannot be read does not affect the others."""

    batteries: list[ParsedBattery]
    errors: list[EntryError]
    every_reading: bool
    closed_cycles: bool
    reasons: bool


def parse_request(content: Any) -> ParsedRequest:
    """The JSON body of POST /predict.  Optional values out of range are deleted from `content`.

    Raises:
        TwinError: the request as a whole cannot be read; with path and value.
    """
    try:
        whole = PredictRequest.model_validate(content)
    except ValidationError:
        return _parse_entries(content)
    batteries = [ParsedBattery(i, battery, []) for i, battery in enumerate(whole.batteries)]
    return ParsedRequest(batteries, [], whole.every_reading, whole.closed_cycles, whole.reasons)


def _parse_entries(content: Any) -> ParsedRequest:
    envelope = parse_model(_Envelope, content)
    batteries: list[ParsedBattery] = []
    errors: list[EntryError] = []
    for i, entry in enumerate(envelope.batteries):
        try:
            battery, dropped = parse_row(BatteryRequest, entry)
        except ValidationError as error:
            first = first_error(error, f"batteries[{i}]")
            battery_id = entry.get("battery_id") if isinstance(entry, Mapping) else None
            known = battery_id if isinstance(battery_id, str) and BATTERY_ID.match(battery_id) else None
            errors.append(EntryError(i, known, 422, first.sentence, first.field, first.value))
        else:
            batteries.append(ParsedBattery(i, battery, dropped))
    return ParsedRequest(batteries, errors, envelope.every_reading, envelope.closed_cycles, envelope.reasons)


def unknown_fields(content: object) -> Counter[str]:
    """How often a request contains each field that is not in the contract; entries that cannot be read are left out."""
    unknown: Counter[str] = Counter()
    if not isinstance(content, Mapping):
        return unknown
    unknown.update(_others(content, PredictRequest))
    for entry in content.get("batteries") or ():
        unknown.update(_others(entry, BatteryRequest))
        unknown.update(_others(entry.get("battery") or {}, Battery))
        for name, model in (("readings", Reading), ("cycles", Cycle)):
            for row in entry.get(name) or ():
                unknown.update(_others(row, model))
    return unknown


_KNOWN: dict[type[BaseModel], frozenset[str]] = {
    model: frozenset(model.model_fields) for model in (PredictRequest, BatteryRequest, Battery, Reading, Cycle)
}


def _others(row: Mapping[str, object], model: type[BaseModel]) -> Set[str]:
    known = _KNOWN[model]
    return frozenset() if row.keys() <= known else row.keys() - known


def first_error(error: ValidationError, entry: str = "") -> TwinError:
    """The first of several validation errors, with its JSON path below `entry` and the value that was sent."""
    first = error.errors(include_url=False)[0]
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    path = f"{entry}{parts}".lstrip(".") or "the request"
    if first["type"] == "missing":
        return TwinError(f"{path} is missing; it is required", field=path)
    rule = _RULES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    value = first["input"]
    if first["type"] == "value_error" and isinstance(value, Mapping):
        return TwinError(f"{path}: {rule}", field=path)
    shown = (
        value
        if value is None or isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))
        else str(value)[:_SHOWN]
    )
    return TwinError(f"{path} is {text_of(value)}: {rule[0].lower()}{rule[1:]}", field=path, value=shown)
