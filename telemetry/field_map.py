"""Field maps: YAML files that map the columns of a data source to the contract's fields.

A field map names each source column, the contract field it becomes and the conversion: unit, sign, codes, the values
that mean 'missing' and, for times, the format and zone.

    table: readings                     # or cycles
    columns:
      Timestamp: {to: time, format: "%Y-%m-%d %H:%M:%S", zone: UTC}
      Battery_Voltage: voltage          # short for {to: voltage}
      Battery_Current: {to: current, unit: mA, sign: -1}
      Status: {to: is_charging, values: {1: true, 3: false}, optional: true}
    constants:
      battery_id: EV-1                  # where no column names the battery
    delimiter: ","                      # of a CSV; the default
    decimal: "."                        # or ",", as in 361,2; the default
    encoding: utf-8                     # or cp1252, utf-16, ...; the default
    relation: plant.readings            # where the columns are in a database: a table or a view,
    query: SELECT ... FROM ...          # or a query instead
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic import Field as Entry

from telemetry.contract import BATTERY_ID, CYCLE_FIELDS, READING_FIELDS, Field
from telemetry.errors import TwinError, text_of
from telemetry.parameters import first_error

TableName = Literal["readings", "cycles"]

TABLES: dict[str, tuple[Field, ...]] = {"readings": READING_FIELDS, "cycles": CYCLE_FIELDS}

#: unit of the contract -> source unit -> (factor, offset): contract value = factor * source value + offset.
UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "V": {"mV": (1e-3, 0.0)},
    "A": {"mA": (1e-3, 0.0)},
    "W": {"kW": (1e3, 0.0)},
    "Ah": {"mAh": (1e-3, 0.0)},
    "Ohm": {"mOhm": (1e-3, 0.0)},
    "kOhm": {"Ohm": (1e-3, 0.0), "MOhm": (1e3, 0.0)},
    "%": {"fraction": (100.0, 0.0)},
    "degC": {"K": (1.0, -273.15), "degF": (5.0 / 9.0, -160.0 / 9.0)},
    "km": {"m": (1e-3, 0.0), "mile": (1.609344, 0.0)},
    "km/h": {"m/s": (3.6, 0.0), "mph": (1.609344, 0.0)},
    "s": {"ms": (1e-3, 0.0), "min": (60.0, 0.0), "h": (3600.0, 0.0)},
}

SHIPPED = Path(__file__).parent / "field_maps"

#: Settings that only columns of one kind have.
_KIND_OF_SETTING = {"format": "time", "zone": "time", "unit": "float", "sign": "float"}
_PLURAL = {"time": "times", "float": "numbers"}
_FIXED_OFFSET = re.compile(r"[+-]\d\d:\d\d")

#: UTF-8, with or without the byte order mark that Excel writes.
UTF_8 = "utf-8-sig"


def code(value: object) -> str:
    """Normalized text of a code: the same for 3, "3" and 3.0."""
    text = str(int(value)) if isinstance(value, bool) else str(value).strip()
    try:
        return format(float(text), ".15g")
    except ValueError:
        return text


def conversion(target: Field, unit: str | None) -> tuple[float, float]:
    """(factor, offset) from `unit` to the unit of `target`.

    Raises:
        ValueError: `unit` cannot be converted to the target's.
    """
    if unit is None or unit == target.unit:
        return 1.0, 0.0
    known = UNITS.get(target.unit, {})
    if unit not in known:
        allowed = ", ".join([target.unit, *known]) if target.unit else "none, as it has no unit"
        raise ValueError(f"it cannot be converted to {target.name}; allowed: {allowed}")
    return known[unit]


def _contract_field(name: object, info: ValidationInfo) -> Field:
    fields: Mapping[str, Field] = info.context or {}
    if not isinstance(name, str) or name not in fields:
        raise ValueError(f"it is not a field of the contract; known are {', '.join(fields)}")
    return fields[name]


def _constant(target: Field, value: object) -> float | str:
    if target.kind == "text":
        if target.name == "battery_id" and not BATTERY_ID.match(str(value)):
            raise ValueError(f"battery_id {value!r} must be 1 to 50 characters of A-Z a-z 0-9 _ . -")
        return str(value)
    if target.kind == "time" or not isinstance(value, (int, float)):
        raise ValueError(f"{text_of(value)} cannot be a constant of {target.name}; give a number")
    return float(value)


def _zone(zone: str) -> str:
    try:
        if not _FIXED_OFFSET.fullmatch(zone):
            ZoneInfo(zone)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError("it is not a time zone; give one such as UTC, +08:00 or Europe/Berlin") from error
    return zone


def _encoding(encoding: str) -> str:
    try:
        # Also refuses bytes-to-bytes codecs such as base64.
        "".encode(encoding)
    except LookupError as error:
        raise ValueError("it is not supported; give one such as utf-8, cp1252 or utf-16") from error
    return UTF_8 if codecs.lookup(encoding).name == "utf-8" else encoding


def _select(query: str) -> str:
    query = query.removesuffix(";")
    if not re.match(r"(?i)(select|with|table|values)\b", query):
        raise ValueError("it must be a SELECT")
    return query


def _listed(value: object) -> object:
    return value if isinstance(value, (list, set, frozenset)) else [value]


Code = Annotated[str, BeforeValidator(code)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ColumnMap(BaseModel):
    """Mapping of one source column to a contract field.

    Attributes:
        source: name of the source column.
        target: the contract field.
        unit: of the source column; None: that of the contract.
        sign: 1, or -1 where the source column has the opposite sign.
        values: source codes as text -> contract value; None: the code means 'missing'.
        missing: texts that mean 'missing' besides the empty one.
        optional: the column may be absent.
        time_format: "iso", "unix_s", "unix_ms" or a strptime format.
        zone: time zone of times without one; None where the map does not state it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    source: str
    target: Annotated[Field, PlainValidator(_contract_field)] = Entry(alias="to")
    unit: str | None = None
    sign: Literal[1, -1] = 1
    values: dict[Code, Any] | None = None
    missing: Annotated[frozenset[Code], BeforeValidator(_listed)] = frozenset()
    optional: bool = False
    time_format: str = Entry("iso", alias="format")
    zone: Annotated[str, AfterValidator(_zone)] | None = None

    @field_validator("unit")
    @classmethod
    def _is_convertible(cls, unit: str | None, info: ValidationInfo) -> str | None:
        if (target := info.data.get("target")) is not None and target.kind == "float":
            conversion(target, unit)
        return unit

    @field_validator("values")
    @classmethod
    def _are_constants(cls, values: dict[str, Any] | None, info: ValidationInfo) -> Any:
        if values is None or (target := info.data.get("target")) is None:
            return None
        return {one: None if value is None else _constant(target, value) for one, value in values.items()}

    @model_validator(mode="after")
    def _settings_fit_the_target(self) -> Self:
        given = {"format" if name == "time_format" else name for name in self.model_fields_set}
        for setting, kind in _KIND_OF_SETTING.items():
            if setting in given and self.target.kind != kind:
                raise ValueError(
                    f"{setting} is for {_PLURAL[kind]}, and {self.target.name} is not one of them; remove it"
                )
        return self

    @property
    def factor(self) -> float:
        """Contract value = factor * source value + offset; both include the sign."""
        return self.sign * conversion(self.target, self.unit)[0]

    @property
    def offset(self) -> float:
        """See `factor`."""
        return self.sign * conversion(self.target, self.unit)[1]


class FieldMap(BaseModel):
    """A validated field map; `name` identifies it in error messages.

    For CSV files, `delimiter` separates the cells, `decimal` is "." or "," and `encoding` is a Python codec.
    For a database, `relation` is a table or view (`schema.table` or `table`) or `query` a SELECT; at most one of the
    two is set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    table: TableName = "readings"
    by_source: dict[str, ColumnMap] = Entry(alias="columns")
    constants: dict[str, Any] = Entry(default_factory=dict)
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: Annotated[str, AfterValidator(_encoding)] = UTF_8
    relation: Text | None = None
    query: Annotated[Text, AfterValidator(_select)] | None = None

    @field_validator("by_source", mode="before")
    @classmethod
    def _with_sources(cls, columns: Any) -> Any:
        """`voltage` is short for `{to: voltage}`."""
        if not isinstance(columns, Mapping):
            return columns
        entries = {str(source): {"to": one} if isinstance(one, str) else one for source, one in columns.items()}
        return {
            source: {"source": source, **one} if isinstance(one, Mapping) else one for source, one in entries.items()
        }

    @field_validator("constants", mode="before")
    @classmethod
    def _are_constants(cls, constants: Any, info: ValidationInfo) -> Any:
        if not isinstance(constants or {}, Mapping):
            return constants
        return {name: _constant(_contract_field(name, info), value) for name, value in (constants or {}).items()}

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        targets = [column.target.name for column in self.columns] + list(self.constants)
        for target in targets:
            if targets.count(target) > 1:
                raise ValueError(f"{target} is mapped twice; keep one column or constant for it")
        # A source may derive the cycle index from the row number and the battery id from the file name.
        derivable = {"battery_id"} | ({"cycle_index"} if self.table == "cycles" else set())
        required = [field.name for field in TABLES[self.table] if field.required and field.name not in derivable]
        if absent := [name for name in required if name not in targets]:
            raise ValueError(
                f"nothing is mapped to the required {' and '.join(absent)}; add a column or a constant for it"
            )
        if self.relation is not None and self.query is not None:
            raise ValueError("relation and query exclude each other; remove one")
        return self

    @property
    def columns(self) -> tuple[ColumnMap, ...]:
        """The columns, in the order of the map."""
        return tuple(self.by_source.values())

    @property
    def required_sources(self) -> list[str]:
        """Source columns that must be present."""
        return [column.source for column in self.columns if not column.optional]

    def source_of(self, target: str) -> str | None:
        """The source column that is mapped to `target`; None where there is none."""
        return next((column.source for column in self.columns if column.target.name == target), None)


def load_field_map(name_or_path: str | Path) -> FieldMap:
    """The field map in a YAML file, or the shipped one of that name.

    Raises:
        TwinError: there is no such file or it is not a valid field map.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise TwinError(
            f"there is no field map {name_or_path}: give the path of a YAML file or one that ships ({shipped})",
            field="source.field_map",
            value=str(name_or_path),
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TwinError(f"field map {path.name} is not YAML: {reason}", field="source.field_map") from error
    return parse_field_map(content, path.name)


def parse_field_map(content: object, name: str) -> FieldMap:
    """Validate the content of a field map.

    Raises:
        TwinError: names the invalid entry, its value and what is allowed.
    """
    if not isinstance(content, Mapping):
        raise TwinError(f"{name} must hold `key: value` lines, but it is {text_of(content)}", field=name, value=content)
    fields = {field.name: field for field in TABLES.get(str(content.get("table")), READING_FIELDS)}
    try:
        return FieldMap.model_validate({**content, "name": name}, context=fields)
    except ValidationError as error:
        raise first_error(error, FieldMap, name) from error
