"""Builds SQL that reads an external table or query through a field map.

Values are selected as text, so that the same code (`telemetry.sources.translate`) converts CSV files and tables.
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
    """An external table or query and its columns.

    Statements composed from it must be executed with parameters, if only an empty tuple, because `%` is doubled.

    Attributes:
        columns: the mapped columns that exist, in the map's order.
        types: PostgreSQL's type name of each existing column.
    """

    field_map: FieldMap
    item: sql.Composable
    columns: tuple[ColumnMap, ...]
    types: dict[str, str]

    def texts(self) -> sql.Composable:
        """The mapped columns as a SELECT list of text values."""
        return sql.SQL(", ").join(_as_text(column) for column in self.columns)

    def column(self, target: str) -> sql.Composable | None:
        """The column that is mapped to `target`; None where there is none."""
        source = self.field_map.source_of(target)
        return None if source is None or source not in self.types else quoted("site", source)

    def type_of(self, target: str) -> sql.SQL:
        """The SQL type of the column that is mapped to `target`, for a cast."""
        return sql.SQL(self.types[str(self.field_map.source_of(target))])


def find_relation(connection: psycopg2.extensions.connection, field_map: FieldMap) -> Relation:
    """Inspect the table or query of `field_map`.

    Raises:
        TwinError: the map names neither, or the table does not exist, may not be read or lacks a column.
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
            f"{field_map.name}: its {'query' if field_map.query else 'relation'} cannot be read: {reason}",
            field="query" if field_map.query else "relation",
            value=field_map.query or field_map.relation,
        ) from error
    absent = [name for name in field_map.required_sources if name not in types]
    if absent:
        raise TwinError(
            f"{field_map.name}: column {absent[0]} does not exist (existing: {', '.join(types)}); correct the map",
            field=absent[0],
        )
    return Relation(field_map, item, tuple(c for c in field_map.columns if c.source in types), types)


def _item(field_map: FieldMap) -> sql.Composable:
    if field_map.query is not None:
        # The operator's statement, in a read-only transaction; the line break ends a comment at its end.
        return sql.SQL("({}\n) AS site").format(sql.SQL(field_map.query.replace("%", "%%")))
    if field_map.relation is None:
        raise TwinError(
            f"{field_map.name} names no database table; add `relation:` with a table or `query:` with a SELECT",
            field="relation",
        )
    return sql.SQL("{} AS site").format(quoted(*field_map.relation.split(".")))


def quoted(*parts: str) -> sql.Identifier:
    """A quoted SQL identifier, with `%` doubled."""
    return sql.Identifier(*(part.replace("%", "%%") for part in parts))


def _as_text(column: ColumnMap) -> sql.Composable:
    # As JSON a time is ISO 8601 with its full zone offset, independent of the connection's DateStyle.
    form = "to_json({}) #>> '{{}}'" if column.target.kind == "time" else "{}::text"
    return sql.SQL(form).format(quoted("site", column.source))
