"""Somebody's own table or query in a database, read through a field map.

Values leave the database as text, so that one translation (`telemetry.sources.translate`) reads CSV files and
tables alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from telemetry.errors import TwinError
from telemetry.field_map import ColumnMap, FieldMap


@dataclass(frozen=True)
class Relation:
    """Where a field map's columns are.

    Every statement made of it has to be executed with values, if only an empty tuple: its `%` are doubled.

    Attributes:
        columns: the mapped columns that are there, in the map's order.
        types: PostgreSQL's name of the type of each column that is there.
    """

    field_map: FieldMap
    item: sql.Composable
    columns: tuple[ColumnMap, ...]
    types: dict[str, str]

    def texts(self) -> sql.Composable:
        """The mapped columns for a SELECT, each as text."""
        return sql.SQL(", ").join(_as_text(column) for column in self.columns)

    def column(self, target: str) -> sql.Composable | None:
        """Their column that becomes `target`; None where none does."""
        source = self.field_map.source_of(target)
        return None if source is None or source not in self.types else quoted("site", source)

    def type_of(self, target: str) -> sql.SQL:
        """The type of that column, for a cast."""
        return sql.SQL(self.types[str(self.field_map.source_of(target))])


def find_relation(connection: psycopg2.extensions.connection, field_map: FieldMap) -> Relation:
    """Look at the table or query of `field_map`.

    Raises:
        TwinError: the map names neither, it is not there, may not be read or lacks a column.
    """
    item = _item(field_map)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(item), ())
            described = cursor.description or ()
            cursor.execute(
                "SELECT format_type(t, NULL) FROM unnest(%s::oid[]) AS t", ([c.type_code for c in described],)
            )
            types = {c.name: str(name) for c, (name,) in zip(described, cursor.fetchall(), strict=True)}
    except psycopg2.OperationalError:
        raise
    except psycopg2.Error as error:
        connection.rollback()
        reason = " ".join(str(error).split())
        raise TwinError(
            f"{field_map.name}: what it reads cannot be read: {reason}",
            field="query" if field_map.query else "relation",
            value=field_map.query or field_map.relation,
        ) from error
    absent = [name for name in field_map.required_sources if name not in types]
    if absent:
        raise TwinError(
            f"{field_map.name}: there is no column {absent[0]} (there are: {', '.join(types)}); correct the map",
            field=absent[0],
        )
    return Relation(field_map, item, tuple(c for c in field_map.columns if c.source in types), types)


def _item(field_map: FieldMap) -> sql.Composable:
    if field_map.query is not None:
        # The operator's own statement, in a transaction that may only read; the line break ends a comment in it.
        return sql.SQL("({}\n) AS site").format(sql.SQL(field_map.query.replace("%", "%%")))
    if field_map.relation is None:
        raise TwinError(
            f"{field_map.name} does not say where its columns are; add `relation:` with a table or `query:` with a "
            "SELECT",
            field="relation",
        )
    return sql.SQL("{} AS site").format(quoted(*field_map.relation.split(".")))


def quoted(*parts: str) -> sql.Identifier:
    """A name as PostgreSQL takes it letter by letter."""
    return sql.Identifier(*(part.replace("%", "%%") for part in parts))


def _as_text(column: ColumnMap) -> sql.Composable:
    # As JSON a time is ISO 8601 with its zone in full, whatever the session's style of dates.
    form = "to_json({}) #>> '{{}}'" if column.target.kind == "time" else "{}::text"
    return sql.SQL(form).format(quoted("site", column.source))
