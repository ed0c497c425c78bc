"""Reads new readings by keyset pagination from the table `ev_telemetry` or from a table or query of the site.

For each battery a bounded number of rows after a key, the value of the time column, is read by an index on (battery,
time).  Keys are passed as text and compared by the database in the column's type, so that times can be timestamps,
numbers or texts.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import numpy as np
import pandas as pd
import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from telemetry import contract_check
from telemetry.contract import BATTERY_ID, EARLIEST, LATEST, READING_FIELDS, names
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap, code
from telemetry.sources.base import ParsedFile, complete, empty_table, require_field_map
from telemetry.sources.local_time import to_utc
from telemetry.sources.raw import RawTable
from telemetry.sources.translate import CLOCK_CHANGE, translate
from telemetry.stores.connection import StoreConnection
from telemetry.stores.relation import ROW_ORDER, find_relation

log = logging.getLogger(__name__)

#: By battery, the key of the newest row that was read; None before the first row.
Keys = Mapping[str, str | None]
Cursor = psycopg2.extensions.cursor

_COLUMNS = names(READING_FIELDS)
#: Largest `max_future_s`: 32 years, which stay within the range of timestamps.
_FOREVER_S = 1e9
#: Number of batteries of one query.
_GROUP = 100


@dataclass(frozen=True)
class NewRows:
    """New rows of some batteries.

    Attributes:
        readings: contract columns, and `arrived` if the table has the time of insertion; each battery's in time order.
            Valid rows only.
        keys: by battery, the keys of all rows that were read, valid or not, in order; never empty.
        rejected: number of rows that violate the contract, by the first invalid field.
        out_of_range: number of optional values out of their range, which count as missing, by field.
        more: whether a battery may have more rows than the limit.
    """

    readings: pd.DataFrame
    keys: Mapping[str, list[str]]
    rejected: Counter[str]
    out_of_range: Counter[str]
    more: bool

    def waited_s(self) -> float | None:
        """Waiting time of the oldest valid row since its insertion, or else since its own time; None without rows."""
        if self.readings.empty:
            return None
        since = self.readings["arrived" if "arrived" in self.readings else "time"].min()
        return max(float((pd.Timestamp.now("UTC") - since).total_seconds()), 0.0)


NO_ROWS = NewRows(empty_table(READING_FIELDS), {}, Counter(), Counter(), more=False)


@dataclass(frozen=True)
class _Table:
    """SQL statements for a table of readings; each is executed with parameters.

    Attributes:
        columns: the columns to select, without the key.
        battery: None if all rows are of one battery.
        only: condition on the rows, e.g. that they are not too far in the future.
    """

    item: sql.Composable
    columns: sql.Composable
    time: sql.Composable
    time_type: sql.Composable
    battery: sql.Composable | None
    battery_type: sql.Composable
    only: sql.Composable

    def waiting(self, cursor: Cursor, raw: Sequence[str], keys: Sequence[str | None]) -> set[str]:
        # LIMIT makes it one index probe for each battery; EXISTS would become a join over the whole table.
        query = sql.SQL(
            "SELECT c.battery FROM unnest(%(ids)s::text[], %(keys)s::text[]) AS c(battery, key) "
            "CROSS JOIN LATERAL (SELECT FROM {item} WHERE {condition} ORDER BY {time} LIMIT 1) AS r"
        )
        found: set[str] = set()
        for condition, values in self._groups(cursor, raw, keys):
            cursor.execute(query.format(item=self.item, condition=condition, time=self.time), values)
            found.update(battery for (battery,) in cursor.fetchall())
        return found

    def after(
        self, cursor: Cursor, raw: Sequence[str], keys: Sequence[str | None], limit: int
    ) -> list[tuple[Any, ...]]:
        """(battery, key, columns ...) of the rows after `keys`, each battery's in order."""
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
        """(battery, key, columns ...) of the rows with these keys, one key for each entry of `raw`."""
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
        """Conditions for groups of batteries, each with its parameters.

        Batteries with similar keys form a group, with the oldest key as a constant, so that the planner excludes the
        chunks of a hypertable that are older than all keys of the group.  Batteries without a key get no condition on
        it, because that would prevent the use of an index.
        """
        new = [battery for battery, key in zip(raw, keys, strict=True) if key is None]
        if new:
            yield self._of_battery(), {"ids": new, "keys": [None] * len(new)}
        if len(new) == len(raw):
            return
        query = sql.SQL(
            "SELECT battery, key FROM unnest(%s::text[], %s::text[]) AS c(battery, key) "
            "WHERE key IS NOT NULL ORDER BY key::{}"
        )
        cursor.execute(query.format(self.time_type), (list(raw), list(keys)))
        sorted_keys = cursor.fetchall()
        condition = sql.SQL("{of_battery} AND {time} > c.key::{type} AND {time} > %(oldest)s::{type}").format(
            of_battery=self._of_battery(), time=self.time, type=self.time_type
        )
        for start in range(0, len(sorted_keys), _GROUP):
            group = sorted_keys[start : start + _GROUP]
            ids, group_keys = [battery for battery, _ in group], [key for _, key in group]
            yield condition, {"ids": ids, "keys": group_keys, "oldest": group_keys[0]}

    def _of_battery(self) -> sql.Composed:
        if self.battery is None:
            return sql.Composed([self.only])
        return sql.SQL("{} = c.battery::{} AND {}").format(self.battery, self.battery_type, self.only)


class RowSource(ABC):
    """A table or query of readings.

    Attributes:
        is_store: whether it is `ev_telemetry`, so that its readings are stored already.
    """

    is_store: bool

    @abstractmethod
    def batteries(self, store: Cursor) -> list[str]:
        """Ids of all batteries that may have rows."""

    def newest(self, store: Cursor, battery_ids: Sequence[str]) -> dict[str, datetime]:
        """The time of each battery's newest row; batteries without rows, or whose row cannot be read, are left out."""
        with self._reading(store) as (cursor, table):
            return self._times(table.newest(cursor, [self._raw_id(battery_id) for battery_id in battery_ids]))

    def waiting(self, store: Cursor, keys: Keys) -> list[str]:
        """The batteries that have rows after their key in `keys`, in the order of `keys`."""
        raw = {battery_id: self._raw_id(battery_id) for battery_id in keys if self._is_known(battery_id)}
        with self._reading(store) as (cursor, table):
            found = table.waiting(cursor, list(raw.values()), [keys[battery_id] for battery_id in raw])
        return [battery_id for battery_id, own in raw.items() if own in found]

    def read(self, store: Cursor, keys: Keys, limit: int) -> NewRows:
        """The first rows after `keys`, at most `limit` for each battery, and before one too far in the future."""
        with self._reading(store) as (cursor, table):
            raw = [self._raw_id(battery_id) for battery_id in keys]
            return self._parsed(table.after(cursor, raw, list(keys.values()), limit), limit)

    def at(self, store: Cursor, keys: Mapping[str, Sequence[str]]) -> NewRows:
        """The rows with these keys."""
        pairs = [(self._raw_id(battery_id), key) for battery_id, own in keys.items() for key in own]
        with self._reading(store) as (cursor, table):
            rows = table.at(cursor, [raw for raw, _ in pairs], [key for _, key in pairs])
            return self._parsed(rows, len(rows) + 1)

    def between(self, store: Cursor, ranges: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
        """The keys in each range, without its first and with its last key."""
        id_of = {self._raw_id(battery_id): battery_id for battery_id in ranges}
        first, last = [key for key, _ in ranges.values()], [key for _, key in ranges.values()]
        with self._reading(store) as (cursor, table):
            found = table.between(cursor, list(id_of), first, last)
        return _by_battery([id_of[raw] for raw, _ in found], [key for _, key in found])

    def _is_known(self, battery_id: str) -> bool:
        return True

    def _raw_id(self, battery_id: str) -> str:
        """The id in the table, as text."""
        return battery_id

    @abstractmethod
    def _reading(self, store: Cursor) -> AbstractContextManager[tuple[Cursor, _Table]]: ...

    @abstractmethod
    def _times(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, datetime]: ...

    @abstractmethod
    def _parsed(self, rows: Sequence[tuple[Any, ...]], limit: int) -> NewRows: ...


class StoreRowSource(RowSource):
    """The table `ev_telemetry`, which has the contract columns and the time of insertion."""

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
            # A row without a voltage holds a prediction whose reading has not been stored yet.
            only=sql.SQL(
                "voltage IS NOT NULL AND time >= {earliest} AND time <= now() + {ahead} * interval '1 second'"
            ).format(earliest=sql.Literal(EARLIEST), ahead=ahead),
        )

    def batteries(self, store: Cursor) -> list[str]:
        """All rows of the table `batteries`; writing a reading inserts its battery there."""
        store.execute("SELECT battery_id FROM batteries ORDER BY battery_id")
        return [battery_id for (battery_id,) in store.fetchall()]

    def _reading(self, store: Cursor) -> AbstractContextManager[tuple[Cursor, _Table]]:
        return nullcontext((store, self._table))

    def _times(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, datetime]:
        return {row[0]: row[2 + _COLUMNS.index("time")] for row in rows}

    def _parsed(self, rows: Sequence[tuple[Any, ...]], limit: int) -> NewRows:
        columns = list(zip(*rows, strict=True)) or [()] * (3 + len(_COLUMNS))
        table = pd.DataFrame(dict(zip(_COLUMNS, columns[2:-1], strict=True)), dtype=object)
        readings = complete(table, READING_FIELDS).assign(arrived=pd.to_datetime(pd.Series(columns[-1]), utc=True))
        return _validated(readings, _by_battery(columns[0], columns[1]), limit)


class SiteRowSource(RowSource):
    """A table or query of the site, read through a field map in read-only transactions.

    Rows are read as text and translated like those of a CSV file.  Rows that cannot be read are left out and counted.
    """

    is_store = False

    def __init__(self, dsn: str, field_map: FieldMap, max_future_s: float) -> None:
        self._field_map = require_field_map(field_map, "readings")
        if field_map.source_of("battery_id") is None and "battery_id" not in field_map.constants:
            raise TwinError(
                f"{field_map.name}: battery_id is missing; map a column to battery_id, or set it as a constant",
                field="battery_id",
            )
        self._ahead = timedelta(seconds=min(max_future_s, _FOREVER_S))
        self._site = StoreConnection(dsn, "battery-twin-reader", read_only=True, prepare=self._prepare)
        # battery_id -> the site's id, as text.
        self._raw: dict[str, str] = {}
        self._unreadable: set[tuple[str, str]] = set()
        # Reasons for leaving rows out that were logged.
        self._logged: set[str] = set()
        # Zone of local times, of which two passes of a repeated hour are told apart.
        self._zone: str | None = None

    def read(self, store: Cursor, keys: Keys, limit: int) -> NewRows:
        """As `RowSource.read`, but never a part of an hour that the clock repeats: its two passes belong together."""
        found = super().read(store, keys, limit)
        while self._ends_in_repeated_hour(found, limit):
            limit *= 2
            found = super().read(store, keys, limit)
        return found

    def _ends_in_repeated_hour(self, found: NewRows, limit: int) -> bool:
        last = [own[-1] for own in found.keys.values() if len(own) >= limit]
        if self._zone is None or not last:
            return False
        times = pd.to_datetime(pd.Series(last), format="ISO8601", errors="coerce")
        return bool(to_utc(times, self._zone, pd.Series(range(len(last)))).repeated.any())

    def batteries(self, store: Cursor) -> list[str]:
        """Reads the distinct ids by skipping from battery to battery in the index (loose index scan)."""
        constant = self._field_map.constants.get("battery_id")
        if constant is not None:
            self._raw = {str(constant): ""}
            return [str(constant)]
        with self._reading(store) as (cursor, table):
            query = sql.SQL(
                "WITH RECURSIVE ids AS (SELECT min({battery}) AS id FROM {item} UNION ALL "
                "SELECT (SELECT min({battery}) FROM {item} WHERE {battery} > ids.id) FROM ids "
                "WHERE ids.id IS NOT NULL) SELECT id::text FROM ids WHERE id IS NOT NULL"
            ).format(battery=cast(sql.Composable, table.battery), item=table.item)
            cursor.execute(query, ())
            site_ids = [str(raw) for (raw,) in cursor.fetchall()]
        pairs = [(self._battery_id(raw), raw) for raw in site_ids]
        self._raw = {battery_id: raw for battery_id, raw in pairs if battery_id is not None}
        return list(self._raw)

    def check(self) -> None:
        """Check that the table or query of the field map can be read.

        Raises:
            TwinError: the table or query is missing or lacks a mapped column.
            psycopg2.OperationalError: the database is unavailable.
        """
        self._site.connection()

    def close(self) -> None:
        """Close the connection; the next read opens a new one."""
        self._site.close()

    def _is_known(self, battery_id: str) -> bool:
        return battery_id in self._raw

    def _raw_id(self, battery_id: str) -> str:
        return self._raw[battery_id]

    @contextmanager
    def _reading(self, store: Cursor) -> Iterator[tuple[Cursor, _Table]]:
        try:
            with self._site.transaction() as cursor:
                yield cursor, self._table
        except psycopg2.Error:
            # Also after an error of the statement: the table may have been recreated with other columns.
            self.close()
            raise

    def _prepare(self, connection: psycopg2.extensions.connection) -> None:
        relation = find_relation(connection, self._field_map)
        time = next(column for column in relation.columns if column.target.name == "time")
        if relation.types[time.source] == "timestamp without time zone" and time.zone is None:
            raise TwinError(
                f"{self._field_map.name}: times in {time.source} have no time zone; add `zone: UTC`, or their zone, to "
                f"{time.source} in the field map",
                field=time.source,
            )
        battery = relation.column("battery_id")
        # Last, the order of insertion: it shows which of two passes of a repeated hour a local time is of.
        order = ROW_ORDER if relation.has_row_order else sql.SQL("NULL")
        self._table = _Table(
            item=relation.item,
            columns=sql.SQL("{}, {}::text").format(relation.texts(), order),
            time=cast(sql.Composable, relation.column("time")),
            time_type=relation.type_of("time"),
            battery=battery,
            battery_type=sql.SQL("text") if battery is None else relation.type_of("battery_id"),
            only=sql.SQL("true"),
        )
        self._columns = tuple(column.source for column in relation.columns)
        self._zone = relation.local_zone

    def _times(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, datetime]:
        kept = self._translated(rows).kept
        return dict(zip(kept["battery_id"], kept["time"].dt.to_pydatetime(), strict=True))

    def _parsed(self, rows: Sequence[tuple[Any, ...]], limit: int) -> NewRows:
        id_of = {raw: battery_id for battery_id, raw in self._raw.items()}
        parsed = self._translated(rows)
        readings = parsed.kept.set_index("source_row")
        battery_ids = pd.Series([id_of[row[0]] for row in rows], index=range(1, len(rows) + 1), dtype="str")
        keys = pd.Series([row[1] for row in rows], index=battery_ids.index, dtype="str")
        too_early = pd.Series(False, index=battery_ids.index)
        too_early[readings.index[readings["time"] > pd.Timestamp.now("UTC") + self._ahead]] = True
        # An unreadable time at the end of the order may be one far in the future: the key stays before it.
        no_time = pd.Series(False, index=battery_ids.index)
        unreadable = parsed.rejected[parsed.rejected["field"] == "time"]
        no_time[unreadable.loc[~unreadable["reason"].str.contains(CLOCK_CHANGE), "row"]] = True
        ends = no_time[::-1].groupby(battery_ids[::-1]).cummin()[::-1]
        due = ~(too_early.groupby(battery_ids).cummax() | ends)
        kept = readings[due[readings.index]].reset_index(drop=True)
        # Two passes of a repeated hour are interleaved in the key's order.
        kept = kept.iloc[np.lexsort((kept["time"], pd.factorize(kept["battery_id"])[0]))].reset_index(drop=True)
        rejected = parsed.rejected[due[parsed.rejected["row"]].to_numpy()]
        self._log_once(parsed.rejected, battery_ids)
        counts = Counter(rejected["field"]) + self._count_once(battery_ids[ends], keys[ends])
        return _validated(complete(kept, READING_FIELDS), _by_battery(battery_ids[due], keys[due]), limit, counts)

    def _count_once(self, battery_ids: Iterable[str], keys: Iterable[str]) -> Counter[str]:
        """Rows with an unreadable time that were not counted before; they are read again every time."""
        new = set(zip(battery_ids, keys, strict=True)) - self._unreadable
        self._unreadable |= new
        return Counter({"time": len(new)} if new else {})

    def _log_once(self, rejected: pd.DataFrame, battery_ids: pd.Series) -> None:
        """Log the first row of each reason; the others are only counted."""
        first = rejected[~rejected["reason"].isin(self._logged)].drop_duplicates("reason")
        for row, value, reason in zip(first["row"], first["value"], first["reason"], strict=True):
            log.warning("a row of %s is left out, %s (others are counted): %s", battery_ids[row], value, reason)
            self._logged.add(reason)

    def _translated(self, rows: Sequence[tuple[Any, ...]]) -> ParsedFile:
        index = range(1, len(rows) + 1)
        cells = pd.DataFrame([row[2:-1] for row in rows], columns=list(self._columns), index=index, dtype="str")
        return translate(
            RawTable(self._field_map.name, cells.fillna(""), {}, self._columns),
            self._field_map,
            order=_row_order([row[-1] for row in rows], index),
            not_after=datetime.now(UTC) + self._ahead,
            requires_zone=False,
        )

    def _battery_id(self, raw: str) -> str | None:
        column = next(column for column in self._field_map.columns if column.target.name == "battery_id")
        battery_id = raw.strip() if column.values is None else column.values.get(code(raw))
        return str(battery_id) if battery_id is not None and BATTERY_ID.match(str(battery_id)) else None


def _row_order(stored_at: Sequence[str | None], index: range) -> pd.Series | None:
    """Number by which rows were inserted, from texts such as `(block,row)`; None if one is unknown."""
    if not stored_at or None in stored_at:
        return None
    places = [str(place).strip("()").split(",") for place in stored_at]
    # A block has less than 2**16 rows.
    return pd.Series([int(block) * 65536 + int(row) for block, row in places], index=index)


def _validated(
    readings: pd.DataFrame, keys: Mapping[str, list[str]], limit: int, rejected: Counter[str] | None = None
) -> NewRows:
    """The rows that have all required values; optional values out of range become missing."""
    readings = readings.copy()
    invalid = pd.Series("", index=readings.index, dtype="str")
    out_of_range: Counter[str] = Counter()
    for field in reversed(READING_FIELDS):
        values = readings[field.name]
        bad = values.isna() & field.required
        if field.kind == "time":
            bad |= ~values.between(EARLIEST, LATEST)
        elif field.kind == "float":
            beyond = contract_check.out_of_range(field, values.to_numpy(dtype=np.float64))
            if field.required:
                bad |= beyond
            elif beyond.any():
                readings.loc[beyond, field.name] = np.nan
                out_of_range[field.name] = int(beyond.sum())
        invalid[bad] = field.name
    return NewRows(
        readings=readings[invalid == ""].reset_index(drop=True),
        keys=keys,
        rejected=Counter(invalid[invalid != ""]) + (rejected or Counter()),
        out_of_range=out_of_range,
        more=any(len(own) >= limit for own in keys.values()),
    )


def _by_battery(battery_ids: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for battery_id, key in zip(battery_ids, keys, strict=True):
        found.setdefault(battery_id, []).append(key)
    return found
