"""Where new readings come from: our table `ev_telemetry`, or a table or query of the site's own.

Both are read in the same way: for each battery the rows behind a key, the value of the column that orders the table, a
bounded number of them, by an index on (battery, time).  A key travels as text and is compared by the database in the
column's own type, so that times may be timestamps, numbers or texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

import pandas as pd
import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from serving.database.contract_check import faults
from telemetry.contract import BATTERY_ID, READING_FIELDS, names
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, code
from telemetry.sources.base import Piece, complete, empty_table, mapped
from telemetry.sources.raw import RawTable
from telemetry.sources.translate import translate
from telemetry.stores.relation import Relation, find_relation

#: By battery, the key of the newest row that was read; None before the first.
Keys = Mapping[str, str | None]
Cursor = psycopg2.extensions.cursor

_COLUMNS = names(READING_FIELDS)
#: As good as no limit, and a time that every clock can show.
_FOREVER_S = 1e9
#: Batteries that one query asks about.
_GROUP = 100


@dataclass(frozen=True)
class Rows:
    """New rows of some batteries.

    Attributes:
        readings: contract columns, and `arrived` where the table says when a row came; each battery's in time order.
            Only rows that keep to the contract.
        keys: by battery, the keys of all rows that were read, kept or not, in their order; never empty.
        refused: how many rows broke the contract, by the first field at fault.
        more: whether a battery may have more rows than could be read at once.
    """

    readings: pd.DataFrame
    keys: Mapping[str, list[str]]
    refused: Counter[str]
    more: bool

    def waited_s(self) -> float | None:
        """How long the first of the kept rows has waited: since it came, or since its own time; None without any."""
        if self.readings.empty:
            return None
        since = self.readings["arrived" if "arrived" in self.readings else "time"].min()
        return max(float((pd.Timestamp.now("UTC") - since).total_seconds()), 0.0)


NO_ROWS = Rows(empty_table(READING_FIELDS), {}, Counter(), more=False)


class Feed(Protocol):
    """A table of readings.

    Attributes:
        is_store: whether it is `ev_telemetry` itself, so that its readings need not be stored.
    """

    is_store: bool

    def batteries(self, store: Cursor) -> list[str]:
        """Everybody who may have rows."""
        ...

    def newest(self, store: Cursor, battery_ids: Sequence[str]) -> dict[str, datetime]:
        """The time of each battery's newest row, of those that have one."""
        ...

    def waiting(self, store: Cursor, keys: Keys) -> list[str]:
        """Of the batteries in `keys` those that have rows behind them, in their order."""
        ...

    def read(self, store: Cursor, keys: Keys, limit: int) -> Rows:
        """The first rows behind `keys`, at most `limit` a battery."""
        ...

    def between(self, store: Cursor, ranges: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
        """The keys that stand behind the first and up to the second key of each range."""
        ...

    def at(self, store: Cursor, keys: Mapping[str, Sequence[str]]) -> Rows:
        """The rows with just these keys."""
        ...


@dataclass(frozen=True)
class _Table:
    """How a table of readings is asked; every statement is executed with values.

    Attributes:
        columns: what a row is read as, without its key.
        battery: None where all rows are of one battery.
        only: which rows count, e.g. those that are not too far in the future.
    """

    item: sql.Composable
    columns: sql.Composable
    time: sql.Composable
    time_type: sql.Composable
    battery: sql.Composable | None
    battery_type: sql.Composable
    only: sql.Composable

    def waiting(self, cursor: Cursor, raw: Sequence[str], keys: Sequence[str | None]) -> set[str]:
        # LIMIT keeps it a probe of the index for each battery; EXISTS would become a join over the whole table.
        query = sql.SQL(
            "SELECT c.battery FROM unnest(%(ids)s::text[], %(keys)s::text[]) AS c(battery, key) "
            "CROSS JOIN LATERAL (SELECT FROM {item} WHERE {condition} ORDER BY {time} LIMIT 1) AS r"
        )
        found: set[str] = set()
        for condition, values in self._groups(cursor, raw, keys):
            cursor.execute(query.format(item=self.item, condition=condition, time=self.time), values)
            found.update(battery for (battery,) in cursor.fetchall())
        return found

    def behind(
        self, cursor: Cursor, raw: Sequence[str], keys: Sequence[str | None], limit: int
    ) -> list[tuple[Any, ...]]:
        """(battery, key, columns ...), each battery's in order."""
        query = sql.SQL(
            "SELECT c.battery, r.* FROM unnest(%(ids)s::text[], %(keys)s::text[]) AS c(battery, key) "
            "CROSS JOIN LATERAL (SELECT {time}::text AS key, {columns} FROM {item} WHERE {condition} "
            "ORDER BY {time} LIMIT %(limit)s) AS r"
        )
        rows: list[tuple[Any, ...]] = []
        for condition, values in self._groups(cursor, raw, keys):
            made = query.format(item=self.item, condition=condition, time=self.time, columns=self.columns)
            cursor.execute(made, {**values, "limit": limit})
            rows += cursor.fetchall()
        return rows

    def at(self, cursor: Cursor, raw: Sequence[str], keys: Sequence[str]) -> list[tuple[Any, ...]]:
        """(battery, key, columns ...) of the rows with these keys, one a battery and key."""
        query = sql.SQL(
            "SELECT c.battery, r.* FROM unnest(%(ids)s::text[], %(keys)s::text[]) AS c(battery, key) "
            "CROSS JOIN LATERAL (SELECT {time}::text AS key, {columns} FROM {item} "
            "WHERE {condition} AND {time} = c.key::{type}) AS r"
        ).format(
            item=self.item, condition=self._of_battery(), time=self.time, type=self.time_type, columns=self.columns
        )
        cursor.execute(query, {"ids": list(raw), "keys": list(keys)})
        return cursor.fetchall()

    def newest(self, cursor: Cursor, raw: Sequence[str]) -> list[tuple[Any, ...]]:
        """(battery, key, columns ...) of each battery's last row."""
        query = sql.SQL(
            "SELECT c.battery, r.* FROM unnest(%(ids)s::text[]) AS c(battery) "
            "CROSS JOIN LATERAL (SELECT {time}::text AS key, {columns} FROM {item} WHERE {condition} "
            "ORDER BY {time} DESC LIMIT 1) AS r"
        ).format(item=self.item, condition=self._of_battery(), time=self.time, columns=self.columns)
        cursor.execute(query, {"ids": list(raw)})
        return cursor.fetchall()

    def between(
        self, cursor: Cursor, raw: Sequence[str], first: Sequence[str], last: Sequence[str]
    ) -> list[tuple[str, str]]:
        query = sql.SQL(
            "SELECT c.battery, r.key FROM unnest(%(ids)s::text[], %(first)s::text[], %(last)s::text[]) "
            "AS c(battery, key, until) CROSS JOIN LATERAL (SELECT {time}::text AS key FROM {item} "
            "WHERE {condition} AND {time} > c.key::{type} AND {time} <= c.until::{type}) AS r"
        ).format(item=self.item, condition=self._of_battery(), time=self.time, type=self.time_type)
        cursor.execute(query, {"ids": list(raw), "first": list(first), "last": list(last)})
        return cursor.fetchall()

    def _groups(
        self, cursor: Cursor, raw: Sequence[str], keys: Sequence[str | None]
    ) -> Iterator[tuple[sql.Composable, dict[str, Any]]]:
        """Conditions on the rows of some batteries each, with the values that they need.

        Neighbours in time go together, with the oldest key as a constant: so the planner leaves out the parts of a
        hypertable that all of them have behind them.  A battery without a key needs no condition on it, which would
        hide an index.
        """
        new = [one for one, key in zip(raw, keys, strict=True) if key is None]
        if new:
            yield self._of_battery(), {"ids": new, "keys": [None] * len(new)}
        if len(new) == len(raw):
            return
        query = sql.SQL(
            "SELECT battery, key FROM unnest(%s::text[], %s::text[]) AS c(battery, key) "
            "WHERE key IS NOT NULL ORDER BY key::{}"
        )
        cursor.execute(query.format(self.time_type), (list(raw), list(keys)))
        known = cursor.fetchall()
        condition = sql.SQL("{of_battery} AND {time} > c.key::{type} AND {time} > %(oldest)s::{type}").format(
            of_battery=self._of_battery(), time=self.time, type=self.time_type
        )
        for start in range(0, len(known), _GROUP):
            group = known[start : start + _GROUP]
            ids, behind = [battery for battery, _ in group], [key for _, key in group]
            yield condition, {"ids": ids, "keys": behind, "oldest": behind[0]}

    def _of_battery(self) -> sql.Composed:
        if self.battery is None:
            return sql.Composed([self.only])
        return sql.SQL("{} = c.battery::{} AND {}").format(self.battery, self.battery_type, self.only)


class StoreFeed:
    """Our own table: rows are in contract columns, and say when they arrived."""

    is_store = True

    def __init__(self, max_future_s: float) -> None:
        ahead = sql.Literal(min(max_future_s, _FOREVER_S))
        self._table = _Table(
            item=sql.SQL("ev_telemetry"),
            columns=sql.SQL(", ").join([*map(sql.Identifier, _COLUMNS), sql.SQL("created_at")]),
            time=sql.SQL("time"),
            time_type=sql.SQL("timestamptz"),
            battery=sql.SQL("battery_id"),
            battery_type=sql.SQL("text"),
            # A row without a voltage holds a prediction whose reading has not come yet.
            only=sql.SQL("voltage IS NOT NULL AND time <= now() + {} * interval '1 second'").format(ahead),
        )

    def batteries(self, store: Cursor) -> list[str]:
        """Whoever writes a reading makes its battery known."""
        store.execute("SELECT battery_id FROM batteries ORDER BY battery_id")
        return [battery_id for (battery_id,) in store.fetchall()]

    def newest(self, store: Cursor, battery_ids: Sequence[str]) -> dict[str, datetime]:
        """See `Feed`."""
        return {row[0]: row[2 + _COLUMNS.index("time")] for row in self._table.newest(store, battery_ids)}

    def waiting(self, store: Cursor, keys: Keys) -> list[str]:
        """See `Feed`."""
        found = self._table.waiting(store, list(keys), list(keys.values()))
        return [battery_id for battery_id in keys if battery_id in found]

    def read(self, store: Cursor, keys: Keys, limit: int) -> Rows:
        """See `Feed`."""
        rows = self._table.behind(store, list(keys), list(keys.values()), limit)
        return self._read(rows, limit)

    def at(self, store: Cursor, keys: Mapping[str, Sequence[str]]) -> Rows:
        """See `Feed`."""
        rows = self._table.at(store, *_pairs(keys))
        return self._read(rows, len(rows) + 1)

    def _read(self, rows: Sequence[tuple[Any, ...]], limit: int) -> Rows:
        columns = list(zip(*rows, strict=True)) or [()] * (3 + len(_COLUMNS))
        table = pd.DataFrame(dict(zip(_COLUMNS, columns[2:-1], strict=True)), dtype=object)
        readings = complete(table, READING_FIELDS).assign(arrived=pd.to_datetime(pd.Series(columns[-1]), utc=True))
        return _judged(readings, _by_battery(columns[0], columns[1]), limit)

    def between(self, store: Cursor, ranges: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
        """See `Feed`."""
        first, last = [key for key, _ in ranges.values()], [key for _, key in ranges.values()]
        found = self._table.between(store, list(ranges), first, last)
        return _by_battery([battery for battery, _ in found], [key for _, key in found])


class SiteFeed:
    """A table or query of the site's own, read through a field map and in transactions that may only read.

    Rows come as text and are translated like those of a CSV.  One that cannot be read is left out and counted.
    """

    is_store = False

    def __init__(self, dsn: str, field_map: FieldMap, max_future_s: float) -> None:
        self._dsn = dsn
        self._field_map = mapped(field_map, "readings")
        if field_map.source_of("battery_id") is None and "battery_id" not in field_map.constants:
            raise TwinError(
                f"{field_map.name}: nothing says which battery a row is of; map a column to battery_id, or give it as "
                "a constant",
                field="battery_id",
            )
        self._ahead = timedelta(seconds=min(max_future_s, _FOREVER_S))
        self._site: tuple[psycopg2.extensions.connection, Relation] | None = None
        # Our id -> theirs, as text.
        self._raw: dict[str, str] = {}

    def batteries(self, store: Cursor) -> list[str]:
        """Goes from battery to battery by the index, however many rows each has."""
        constant = self._field_map.constants.get("battery_id")
        if constant is not None:
            self._raw = {str(constant): ""}
            return [str(constant)]
        with self._reading() as (cursor, relation):
            battery = cast(sql.Composable, relation.column("battery_id"))
            query = sql.SQL(
                "WITH RECURSIVE them AS (SELECT min({battery}) AS id FROM {item} UNION ALL "
                "SELECT (SELECT min({battery}) FROM {item} WHERE {battery} > them.id) FROM them "
                "WHERE them.id IS NOT NULL) SELECT id::text FROM them WHERE id IS NOT NULL"
            ).format(battery=battery, item=relation.item)
            cursor.execute(query, ())
            theirs = [str(raw) for (raw,) in cursor.fetchall()]
        ours = [(self._our_id(raw), raw) for raw in theirs]
        self._raw = {our: raw for our, raw in ours if our is not None}
        return list(self._raw)

    def newest(self, store: Cursor, battery_ids: Sequence[str]) -> dict[str, datetime]:
        """See `Feed`; a battery whose newest row cannot be read has none."""
        with self._reading() as (cursor, relation):
            rows = _table_of(relation).newest(cursor, [self._raw[one] for one in battery_ids])
        piece = self._translated(relation, rows)
        return dict(zip(piece.kept["battery_id"], piece.kept["time"].dt.to_pydatetime(), strict=True))

    def waiting(self, store: Cursor, keys: Keys) -> list[str]:
        """See `Feed`."""
        known = [battery_id for battery_id in keys if battery_id in self._raw]
        with self._reading() as (cursor, relation):
            table = _table_of(relation)
            found = table.waiting(cursor, [self._raw[one] for one in known], [keys[one] for one in known])
        return [battery_id for battery_id in known if self._raw[battery_id] in found]

    def read(self, store: Cursor, keys: Keys, limit: int) -> Rows:
        """See `Feed`; a row that is too far in the future is not read yet, nor is what stands behind it."""
        with self._reading() as (cursor, relation):
            raw = [self._raw[one] for one in keys]
            rows = _table_of(relation).behind(cursor, raw, list(keys.values()), limit)
        return self._read(relation, rows, limit)

    def at(self, store: Cursor, keys: Mapping[str, Sequence[str]]) -> Rows:
        """See `Feed`."""
        battery_ids, keys_of = _pairs(keys)
        with self._reading() as (cursor, relation):
            rows = _table_of(relation).at(cursor, [self._raw[one] for one in battery_ids], keys_of)
        return self._read(relation, rows, len(rows) + 1)

    def _read(self, relation: Relation, rows: Sequence[tuple[Any, ...]], limit: int) -> Rows:
        ours = {raw: our for our, raw in self._raw.items()}
        piece = self._translated(relation, rows)
        readings = piece.kept.set_index("source_row")
        battery_ids = pd.Series([ours[row[0]] for row in rows], index=range(1, len(rows) + 1), dtype="str")
        too_early = pd.Series(False, index=battery_ids.index)
        too_early[readings.index[readings["time"] > pd.Timestamp.now("UTC") + self._ahead]] = True
        due = ~too_early.groupby(battery_ids).cummax()
        kept = readings[due[readings.index]].reset_index(drop=True)
        rejected = piece.rejected[due[piece.rejected["row"]].to_numpy()]
        keys_read = _by_battery(battery_ids[due], pd.Series([row[1] for row in rows], index=battery_ids.index)[due])
        return _judged(complete(kept, READING_FIELDS), keys_read, limit, Counter(rejected["field"]))

    def between(self, store: Cursor, ranges: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
        """See `Feed`."""
        raw = {self._raw[our]: our for our in ranges}
        first, last = [key for key, _ in ranges.values()], [key for _, key in ranges.values()]
        with self._reading() as (cursor, relation):
            found = _table_of(relation).between(cursor, list(raw), first, last)
        return _by_battery([raw[battery] for battery, _ in found], [key for _, key in found])

    def check(self) -> None:
        """Look once whether everything is there.

        Raises:
            TwinError: what the map names cannot be read or lacks a column.
            psycopg2.OperationalError: the database is away.
        """
        with self._reading():
            pass

    def close(self) -> None:
        """Close the connection; a new one is opened when the feed is used again."""
        if self._site is not None:
            self._site[0].close()
            self._site = None

    @contextmanager
    def _reading(self) -> Iterator[tuple[Cursor, Relation]]:
        if self._site is None or self._site[0].closed:
            connection = psycopg2.connect(self._dsn, connect_timeout=5, application_name="battery-twin-reader")
            connection.set_session(readonly=True)
            with connection, connection.cursor() as cursor:
                cursor.execute("SET TIME ZONE 'UTC'; SET datestyle TO ISO; SET statement_timeout TO '60s'")
            self._site = connection, find_relation(connection, self._field_map)
        connection, relation = self._site
        try:
            with connection, connection.cursor() as cursor:
                yield cursor, relation
        except psycopg2.Error:
            # Also for an error of the statement: a table may have been made anew with other columns.
            self.close()
            raise

    def _translated(self, relation: Relation, rows: Sequence[tuple[Any, ...]]) -> Piece:
        columns = [column.source for column in relation.columns]
        cells = pd.DataFrame([row[2:] for row in rows], columns=columns, index=range(1, len(rows) + 1), dtype="str")
        return translate(RawTable(self._field_map.name, cells.fillna(""), {}, tuple(columns)), self._field_map)

    def _our_id(self, raw: str) -> str | None:
        column = next(one for one in self._field_map.columns if one.target.name == "battery_id")
        our = raw.strip() if column.values is None else column.values.get(code(raw))
        return str(our) if our is not None and BATTERY_ID.match(str(our)) else None


def _table_of(relation: Relation) -> _Table:
    battery = relation.column("battery_id")
    return _Table(
        item=relation.item,
        columns=relation.texts(),
        time=cast(sql.Composable, relation.column("time")),
        time_type=relation.type_of("time"),
        battery=battery,
        battery_type=sql.SQL("text") if battery is None else relation.type_of("battery_id"),
        only=sql.SQL("true"),
    )


def _judged(
    readings: pd.DataFrame, keys: Mapping[str, list[str]], limit: int, refused: Counter[str] | None = None
) -> Rows:
    fault = faults(readings)
    counts = Counter(fault[fault != ""]) + (refused or Counter())
    return Rows(
        readings=readings[fault == ""].reset_index(drop=True),
        keys=keys,
        refused=counts,
        more=any(len(own) >= limit for own in keys.values()),
    )


def _pairs(keys: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Battery and key of each, as two columns."""
    pairs = [(battery_id, key) for battery_id, own in keys.items() for key in own]
    return [battery_id for battery_id, _ in pairs], [key for _, key in pairs]


def _by_battery(battery_ids: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for battery_id, key in zip(battery_ids, keys, strict=True):
        found.setdefault(battery_id, []).append(key)
    return found
