"""SQL column definitions and column comments derived from the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field

TABLES: dict[str, tuple[Field, ...]] = {
    "ev_telemetry": READING_FIELDS,
    "batteries": BATTERY_FIELDS,
    "battery_cycles": CYCLE_FIELDS,
}

_TYPES = {"text": "text", "time": "timestamptz", "float": "double precision", "bool": "boolean"}


@dataclass(frozen=True)
class Column:
    """Definition of one PostgreSQL column."""

    name: str
    sql_type: str
    not_null: bool
    comment: str

    @property
    def definition(self) -> str:
        """The column as a clause of CREATE TABLE."""
        return f"{self.name} {self.sql_type}" + (" NOT NULL" if self.not_null else "")


def columns(table: str) -> tuple[Column, ...]:
    """The contract's columns of `ev_telemetry`, `batteries` or `battery_cycles`, in order."""
    return tuple(_column(field) for field in TABLES[table])


def comment_statements(tables: Sequence[str] = tuple(TABLES)) -> list[str]:
    """COMMENT ON COLUMN statements with unit and meaning."""
    return [
        f"COMMENT ON COLUMN {table}.{column.name} IS '{column.comment.replace(chr(39), chr(39) * 2)}'"
        for table in tables
        for column in columns(table)
        if column.comment
    ]


def _column(field: Field) -> Column:
    words = [field.description, f"[{field.unit}]" if field.unit else ""]
    return Column(field.name, _TYPES[field.kind], field.required, " ".join(w for w in words if w))
