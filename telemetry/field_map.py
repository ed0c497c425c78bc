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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import yaml

from telemetry.contract import BATTERY_ID, CYCLE_FIELDS, READING_FIELDS, Field
from telemetry.errors import TwinError

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

_FIXED_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_COLUMN_KEYS = ("to", "unit", "sign", "values", "missing", "optional", "format", "zone")
_MAP_KEYS = ("table", "columns", "constants", "delimiter", "decimal", "encoding", "relation", "query")

#: UTF-8, with or without the byte order mark that Excel writes.
UTF_8 = "utf-8-sig"


@dataclass(frozen=True)
class ColumnMap:
    """Mapping of one source column to a contract field.

    Attributes:
        source: name of the source column.
        target: the contract field.
        factor, offset: contract value = factor * source value + offset; the factor includes the sign.
        values: source codes as text -> contract value; None: the code means 'missing'.
        missing: texts that mean 'missing' besides the empty one.
        optional: the column may be absent.
        time_format: "iso", "unix_s", "unix_ms" or a strptime format.
        zone: time zone of times without one; None where the map does not state it.
    """

    source: str
    target: Field
    factor: float = 1.0
    offset: float = 0.0
    values: Mapping[str, float | str | None] | None = None
    missing: frozenset[str] = frozenset()
    optional: bool = False
    time_format: str = "iso"
    zone: str | None = None


@dataclass(frozen=True)
class FieldMap:
    """A validated field map; `name` identifies it in error messages.

    For CSV files, `delimiter` separates the cells, `decimal` is "." or "," and `encoding` is a Python codec.
    For a database, `relation` is a table or view (`schema.table` or `table`) or `query` a SELECT; at most one of the
    two is set.
    """

    name: str
    table: TableName
    columns: tuple[ColumnMap, ...]
    constants: Mapping[str, float | str] = field(default_factory=dict)
    delimiter: str = ","
    decimal: str = "."
    encoding: str = UTF_8
    relation: str | None = None
    query: str | None = None

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
    """Validate the content of a field map and resolve its units.

    Raises:
        TwinError: names the invalid entry, its value and what is allowed.
    """
    entries = _mapping(content, name, "the file")
    _known_keys(entries, _MAP_KEYS, name, "the file")
    table = entries.get("table", "readings")
    if table not in TABLES:
        raise TwinError(f"{name}: table is {table!r}; it must be readings or cycles", field="table", value=table)
    fields = {f.name: f for f in TABLES[table]}
    columns = tuple(
        _column(str(source), entry, fields, name)
        for source, entry in _mapping(entries.get("columns"), name, "columns").items()
    )
    constants = {
        str(target): _constant(str(target), value, fields, name)
        for target, value in _mapping(entries.get("constants") or {}, name, "constants").items()
    }
    _refuse_duplicates([c.target.name for c in columns] + list(constants), name)
    # A source may derive the cycle index from the row number and the battery id from the file name.
    derivable = {"battery_id"} | ({"cycle_index"} if table == "cycles" else set())
    absent = [f.name for f in TABLES[table] if f.required and f.name not in derivable]
    absent = [n for n in absent if n not in constants and n not in {c.target.name for c in columns}]
    if absent:
        raise TwinError(
            f"{name}: nothing is mapped to the required {' and '.join(absent)}; add a column or a constant for it",
            field=absent[0],
        )
    relation, query = _database_origin(entries, name)
    return FieldMap(name, table, columns, constants, *_csv_format(entries, name), relation, query)


def code(value: object) -> str:
    """Normalized text of a code: the same for 3, "3" and 3.0."""
    text = str(int(value)) if isinstance(value, bool) else str(value).strip()
    try:
        return format(float(text), ".15g")
    except ValueError:
        return text


def conversion(target: Field, unit: str | None, where: str) -> tuple[float, float]:
    """(factor, offset) from `unit` to the unit of `target`.

    Raises:
        TwinError: `unit` cannot be converted to the target's.
    """
    if unit is None or unit == target.unit:
        return 1.0, 0.0
    known = UNITS.get(target.unit, {})
    if unit not in known:
        allowed = ", ".join([target.unit, *known]) if target.unit else "none, as it has no unit"
        raise TwinError(
            f"{where}: unit {unit!r} cannot be converted to {target.name}; allowed: {allowed}", field=where, value=unit
        )
    return known[unit]


def _column(source: str, entry: object, fields: Mapping[str, Field], name: str) -> ColumnMap:
    where = f"{name}: column {source}"
    settings = {"to": entry} if isinstance(entry, str) else _mapping(entry, name, f"column {source}")
    _known_keys(settings, _COLUMN_KEYS, name, f"column {source}")
    target = _target(settings.get("to"), fields, where)
    sign = settings.get("sign", 1)
    if sign not in (1, -1) or isinstance(sign, bool):
        raise TwinError(f"{where}: sign is {sign!r}; it must be 1 or -1", field=source, value=sign)
    for key in ("format", "zone"):
        if key in settings and target.kind != "time":
            raise TwinError(
                f"{where}: {key} is for times, and {target.name} is not a time; remove it", field=source, value=key
            )
    for key in ("unit", "sign"):
        if key in settings and target.kind != "float":
            raise TwinError(
                f"{where}: {key} is for numbers, and {target.name} is not a number; remove it", field=source, value=key
            )
    factor, offset = conversion(target, settings.get("unit"), where)
    missing = settings.get("missing", [])
    return ColumnMap(
        source=source,
        target=target,
        factor=sign * factor,
        offset=sign * offset,
        values=_codes(settings.get("values"), target, name, where),
        missing=frozenset(code(value) for value in (missing if isinstance(missing, list) else [missing])),
        optional=bool(settings.get("optional", False)),
        time_format=str(settings.get("format", "iso")),
        zone=_zone(settings.get("zone"), where),
    )


def _csv_format(entries: Mapping[Any, Any], name: str) -> tuple[str, str, str]:
    """(delimiter, decimal, encoding) of a map's CSV files."""
    delimiter = entries.get("delimiter", ",")
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise TwinError(
            f"{name}: delimiter is {delimiter!r}; it must be one character", field="delimiter", value=delimiter
        )
    decimal = entries.get("decimal", ".")
    if decimal not in (".", ","):
        raise TwinError(f"{name}: decimal is {decimal!r}; it must be '.' or ','", field="decimal", value=decimal)
    encoding = entries.get("encoding", UTF_8)
    try:
        # Also refuses bytes-to-bytes codecs such as base64.
        "".encode(str(encoding))
    except LookupError as error:
        raise TwinError(
            f"{name}: encoding is {encoding!r}, which is not supported; give one such as utf-8, cp1252 or utf-16",
            field="encoding",
            value=encoding,
        ) from error
    return delimiter, decimal, UTF_8 if codecs.lookup(str(encoding)).name == "utf-8" else str(encoding)


def _database_origin(entries: Mapping[Any, Any], name: str) -> tuple[str | None, str | None]:
    """(relation, query) of a map whose columns are in a database."""
    for key in ("relation", "query"):
        value = entries.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise TwinError(f"{name}: {key} is {value!r}; it must be a string", field=key, value=value)
    relation, query = entries.get("relation"), entries.get("query")
    if relation is not None and query is not None:
        raise TwinError(f"{name}: relation and query exclude each other; remove one", field="query")
    if query is not None:
        query = query.strip().removesuffix(";")
        if not re.match(r"(?i)(select|with|table|values)\b", query):
            raise TwinError(f"{name}: query must be a SELECT, but it begins {query[:30]!r}", field="query", value=query)
    return relation, query


def _target(target: object, fields: Mapping[str, Field], where: str) -> Field:
    if not isinstance(target, str) or target not in fields:
        raise TwinError(
            f"{where} is mapped to {target!r}, which is not a field of the contract; known are {', '.join(fields)}",
            field=where,
            value=target,
        )
    return fields[target]


def _codes(codes: object, target: Field, name: str, where: str) -> dict[str, float | str | None] | None:
    if codes is None:
        return None
    return {
        code(source_code): None if value is None else _constant(target.name, value, {target.name: target}, name)
        for source_code, value in _mapping(codes, name, f"{where} values").items()
    }


def _constant(target: str, value: object, fields: Mapping[str, Field], name: str) -> float | str:
    known = _target(target, fields, f"{name}: constant {target}")
    if known.kind == "text":
        if known.name == "battery_id" and not BATTERY_ID.match(str(value)):
            raise TwinError(
                f"{name}: battery_id {value!r} must be 1 to 50 characters of A-Z a-z 0-9 _ . -",
                field=target,
                value=value,
            )
        return str(value)
    if known.kind == "time" or not isinstance(value, (int, float)):
        raise TwinError(f"{name}: {value!r} cannot be a constant of {target}; give a number", field=target, value=value)
    return float(value)


def _zone(zone: object, where: str) -> str | None:
    if zone is None:
        return None
    if not _FIXED_OFFSET.fullmatch(str(zone)):
        try:
            ZoneInfo(str(zone))
        except (ValueError, KeyError, OSError) as error:
            raise TwinError(
                f"{where}: {zone!r} is not a time zone; give one such as UTC, +08:00 or Europe/Berlin",
                field=where,
                value=zone,
            ) from error
    return str(zone)


def _mapping(content: object, name: str, what: str) -> Mapping[Any, Any]:
    if not isinstance(content, Mapping):
        raise TwinError(
            f"{name}: {what} must hold `key: value` lines, but it is {content!r}", field=what, value=content
        )
    return content


def _known_keys(entries: Mapping[Any, Any], known: tuple[str, ...], name: str, where: str) -> None:
    for key in entries:
        if key not in known:
            raise TwinError(
                f"{name}: {key!r} in {where} is not a setting; known are {', '.join(known)}", field=str(key), value=key
            )


def _refuse_duplicates(targets: list[str], name: str) -> None:
    for target in targets:
        if targets.count(target) > 1:
            raise TwinError(f"{name}: {target} is mapped twice; keep one column or constant for it", field=target)
