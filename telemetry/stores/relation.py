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

#: Where a row is stored, block and row in it: the order in which rows were inserted that are never updated.
ROW_ORDER = sql.SQL("site.ctid")


@dataclass(frozen=True)
class Relation:
    """An external table or query and its columns.

    Statements composed from it must be executed with parameters, if only an empty tuple, because `%` is doubled.

    Attributes:
        columns: the mapped columns that exist, in the map's order.
        types: PostgreSQL's type name of each existing column.
        has_row_order: whether the rows are those of one table, so that `ROW_ORDER` can be selected.
    """

    field_map: FieldMap
    item: sql.Composable
    columns: tuple[ColumnMap, ...]
    types: dict[str, str]
    has_row_order: bool = False

    def texts(self) -> sql.Composable:
        """The mapped columns as a SELECT list of text values."""
        return sql.SQL(", ").join(_as_text(column) for column in self.columns)

    def column(self, target: str) -> sql.Composable | None:
        """The column that is mapped to `target`; None where there is none."""
        source = self.field_map.source_of(target)
        return None if source is None or source not in self.types else quoted("site", source)

    def recorded_order(self) -> list[sql.Composable]:
        """ORDER BY terms for the rows of one battery: by time, within an hour that the clock repeats as inserted."""
        time, zone = self.column("time"), self.local_zone
        if time is None:
            return []
        if zone is None:
            return [time]
        # The time as an instant, an hour earlier and later: the same local time for one that occurs twice.
        shifted = "({time} AT TIME ZONE {zone} {sign} interval '1 hour') AT TIME ZONE {zone}"
        same = [sql.SQL(shifted).format(time=time, zone=sql.Literal(zone), sign=sql.SQL(sign)) for sign in ("+", "-")]
        hour = sql.SQL("CASE WHEN {time} IN ({same}) THEN date_trunc('hour', {time}) ELSE {time} END").format(
            time=time, same=sql.SQL(", ").join(same)
        )
        return [hour, ROW_ORDER]

    @property
    def local_zone(self) -> str | None:
        """The zone of its times, if these are local and the order of insertion tells two passes of an hour apart."""
        column = next((column for column in self.columns if column.target.name == "time"), None)
        if column is None or not self.has_row_order or self.types[column.source] != "timestamp without time zone":
            return None
        return column.zone

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
            has_row_order = field_map.relation is not None and _is_one_table(cursor, field_map.relation)
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
    return Relation(field_map, item, tuple(c for c in field_map.columns if c.source in types), types, has_row_order)


def _is_one_table(cursor: psycopg2.extensions.cursor, relation: str) -> bool:
    """Whether `relation` is a table without partitions or chunks, as opposed to a view or a hypertable."""
    name = sql.Identifier(*relation.split(".")).as_string(cursor)
    cursor.execute("SELECT relkind = 'r' AND NOT relhassubclass FROM pg_class WHERE oid = to_regclass(%s)", (name,))
    row = cursor.fetchone()
    return row is not None and bool(row[0])


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
