"""Copies the telemetry store into Parquet files for training: a consistent snapshot in a folder of its own.

All cycles are copied, since they are few and never deleted; of the readings, the last days of a sample of the
batteries, since training holds all of them in memory.  Rows are copied in chunks, so that memory is bounded for a store
of any size.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import psycopg2
import psycopg2.extensions
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2 import sql
from pydantic import Field as Entry
from pydantic import PositiveFloat, PositiveInt

from telemetry.contract import BATTERY_EVENT_FIELDS, BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field, names
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
from telemetry.parameters import Parameters
from telemetry.stores.connection import connect
from telemetry.stores.relation import find_relation

MANIFEST = "snapshot.json"
READINGS, CYCLES, BATTERIES = "readings.parquet", "cycles.parquet", "batteries.parquet"
EVENTS = "events.parquet"
#: An external table, as text in its own columns.
EXTERNAL = "theirs.parquet"
#: Its entry in the manifest.
EXTERNAL_KEY = "theirs"

#: Readings further apart than this would split a session.
_LONGEST_STEP_S = 60.0
_CHUNK_ROWS = 50_000
_ARROW = {"text": pa.string(), "time": pa.timestamp("us", "UTC"), "float": pa.float64(), "bool": pa.bool_()}


class SnapshotParams(Parameters):
    """Extent of a snapshot; `snapshot` in params.yaml.

    Attributes:
        days: time range of each battery's readings, back from its newest one.
        every_s: at most one reading per battery in this time, and each at which the alarm level changes; 0: all.
        batteries: number of batteries whose readings are copied; as far as possible the same in every snapshot.
    """

    section: ClassVar[str] = "snapshot"

    days: PositiveFloat = 7.0
    every_s: float = Entry(10.0, ge=0.0, le=_LONGEST_STEP_S)
    batteries: PositiveInt = 50


def take_snapshot(
    dsn: str,
    folder: Path,
    params: SnapshotParams,
    *,
    until: datetime | None = None,
    field_map: FieldMap | None = None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Copy the store's batteries, cycles and newest readings into a new folder under `folder`.

    All tables are read in one transaction.  The same content gives the same bytes and the same folder, whose name is
    the time of the newest row and a hash.

    Args:
        until: copy rows up to this time; None: all.
        field_map: of an external table or query, which is copied completely and unconverted in place of the contract's
            table for the same rows; the source that reads the files converts it.
        check: called for each battery and each chunk of rows; an exception from it aborts the copy and removes it.

    Raises:
        TwinError: the store cannot be read or holds no readings and cycles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder) as scratch,
            closing(connect(dsn, "battery-twin-snapshot")) as connection,
        ):
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            incomplete = Path(scratch) / "snapshot"
            incomplete.mkdir()
            newest = _copy(connection, incomplete, params, until, field_map, check)
            digest = hashlib.sha256((incomplete / MANIFEST).read_bytes()).hexdigest()
            snapshot = folder / f"{newest:%Y%m%dT%H%M%SZ}-{digest[:8]}"
            if not snapshot.is_dir():
                incomplete.rename(snapshot)
    except psycopg2.Error as error:
        lines = str(error).strip().splitlines()
        raise TwinError(
            f"the telemetry store could not be read ({lines[0] if lines else type(error).__name__}); name it in "
            "TWIN_TELEMETRY_DSN, and migrate it with `python -m telemetry.stores.migrate`",
            field="telemetry_dsn",
        ) from error
    return snapshot


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as in the manifest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(
    connection: psycopg2.extensions.connection,
    folder: Path,
    params: SnapshotParams,
    until: datetime | None,
    field_map: FieldMap | None,
    check: Callable[[], None],
) -> datetime:
    """Write tables and manifest; the newest time in the contract's tables, or now where they have none."""
    last = until or datetime.max.replace(tzinfo=UTC)
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute("SELECT battery_id FROM batteries ORDER BY battery_id")
        ids = [battery_id for (battery_id,) in cursor.fetchall()]
    external = None if field_map is None else _write_external(connection, folder / EXTERNAL, field_map, check)
    contract_tables = [table for table in ("readings", "cycles") if field_map is None or field_map.table != table]
    batteries = _write(
        folder / BATTERIES,
        BATTERY_FIELDS,
        _rows(connection, sql.SQL("SELECT {} FROM batteries ORDER BY battery_id"), BATTERY_FIELDS),
        check,
    )
    _write(folder / EVENTS, BATTERY_EVENT_FIELDS, _rows(connection, _EVENTS_SQL, BATTERY_EVENT_FIELDS), check)
    cycles = _write(
        folder / CYCLES,
        CYCLE_FIELDS,
        _rows(connection, _CYCLES_SQL, CYCLE_FIELDS, {"until": last}) if "cycles" in contract_tables else iter(()),
        check,
    )
    readings = _write(
        folder / READINGS,
        READING_FIELDS,
        _readings(connection, ids, params, last, check) if "readings" in contract_tables else iter(()),
        check,
    )
    newest = max((table.newest for table in (cycles, readings) if table.newest is not None), default=None)
    if newest is None and external is None:
        raise TwinError(
            "the telemetry store holds no reading and no cycle with a time, so there is nothing to copy yet",
            field="telemetry_dsn",
        )
    manifest = {
        "readings": {
            "rows": readings.rows,
            "from": _text(readings.oldest),
            "until": _text(readings.newest),
            "days": params.days,
            "every_s": params.every_s,
            "batteries": params.batteries,
        },
        "cycles": {"rows": cycles.rows, "from": _text(cycles.oldest), "until": _text(cycles.newest)},
        "batteries": {"rows": batteries.rows},
        EXTERNAL_KEY: None if field_map is None else {"rows": external, "table": field_map.table},
        "sha256": {path.name: file_sha256(path) for path in sorted(folder.glob("*.parquet"))},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return newest or datetime.now(UTC)


def _write_external(
    connection: psycopg2.extensions.connection, path: Path, field_map: FieldMap, check: Callable[[], None]
) -> int:
    """Write the mapped columns of an external table or query as text, ordered by battery and time.

    Within an hour that the clock repeats the rows of a table are in the order of their insertion.
    """
    relation = find_relation(connection, field_map)
    battery, cycle = (relation.column(target) for target in ("battery_id", "cycle_index"))
    order = [column for column in (battery, *relation.recorded_order(), cycle) if column is not None]
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
        relation.texts(), relation.item, sql.SQL(", ").join(order or [sql.SQL("1")])
    )
    schema = pa.schema([pa.field(column.source, pa.string()) for column in relation.columns])
    rows = 0
    with connection.cursor(name="external") as cursor, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        cursor.execute(query, ())
        while chunk := cursor.fetchmany(_CHUNK_ROWS):
            check()
            writer.write_table(
                pa.Table.from_arrays([pa.array(c, pa.string()) for c in zip(*chunk, strict=True)], schema=schema)
            )
            rows += len(chunk)
    return rows


_EVENTS_SQL = sql.SQL("SELECT {} FROM battery_events ORDER BY battery_id, time, event")
_CYCLES_SQL = sql.SQL("""
    SELECT {} FROM battery_cycles WHERE end_time IS NULL OR end_time <= %(until)s
    ORDER BY battery_id, cycle_index, end_time NULLS FIRST, kind
""")

# The first reading of each interval of `every_s`, and each at which the alarm level changes; in the order of the index,
# so that no sort is needed.
_READINGS_SQL = sql.SQL("""
    SELECT {} FROM (
        SELECT *,
               lag(floor(extract(epoch FROM time)::float8 / %(every_s)s)) OVER (ORDER BY time) AS previous_interval,
               lag(warning_level) OVER (ORDER BY time) AS previous_warning
        FROM ev_telemetry
        WHERE battery_id = %(battery_id)s AND time > %(after)s AND time <= %(until)s AND voltage IS NOT NULL
    ) AS readings
    WHERE previous_interval IS DISTINCT FROM floor(extract(epoch FROM time)::float8 / %(every_s)s)
       OR previous_warning IS DISTINCT FROM warning_level
    ORDER BY time
""")
_ALL_READINGS_SQL = sql.SQL("""
    SELECT {} FROM ev_telemetry
    WHERE battery_id = %(battery_id)s AND time > %(after)s AND time <= %(until)s AND voltage IS NOT NULL
    ORDER BY time
""")


def _readings(
    connection: psycopg2.extensions.connection,
    ids: Sequence[str],
    params: SnapshotParams,
    until: datetime,
    check: Callable[[], None],
) -> Iterator[list[tuple[object, ...]]]:
    """Each battery's time range, battery by battery; for a battery that stopped reporting, its last readings."""
    query = _READINGS_SQL if params.every_s else _ALL_READINGS_SQL
    for battery_id, newest in sorted(_sample(connection, ids, params.batteries, until, check)):
        values = {
            "battery_id": battery_id,
            "after": newest - timedelta(days=params.days),
            "until": newest,
            "every_s": params.every_s,
        }
        yield from _rows(connection, query, READING_FIELDS, values)


def _sample(
    connection: psycopg2.extensions.connection,
    ids: Sequence[str],
    count: int,
    until: datetime,
    check: Callable[[], None],
) -> list[tuple[str, datetime]]:
    """The first `count` batteries with readings, ordered by a hash of their ids, and their newest times."""
    found: list[tuple[str, datetime]] = []
    for battery_id in sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if len(found) == count:
            break
        check()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT max(time) FROM ev_telemetry WHERE battery_id = %s AND time <= %s AND voltage IS NOT NULL",
                (battery_id, until),
            )
            (newest,) = cursor.fetchone() or (None,)
        if newest is not None:
            found.append((battery_id, newest))
    return found


def _rows(
    connection: psycopg2.extensions.connection,
    query: sql.SQL,
    fields: Sequence[Field],
    values: dict[str, object] | None = None,
) -> Iterator[list[tuple[object, ...]]]:
    """The rows of `query`, whose `{}` becomes the columns of `fields`, in chunks from a server-side cursor."""
    with connection.cursor(name="snapshot") as cursor:
        columns = sql.SQL(", ").join(map(sql.Identifier, names(fields)))
        cursor.execute(query.format(columns), values)
        while chunk := cursor.fetchmany(_CHUNK_ROWS):
            yield chunk


@dataclass(frozen=True)
class _WrittenTable:
    rows: int
    oldest: datetime | None
    newest: datetime | None


def _write(
    path: Path, fields: Sequence[Field], chunks: Iterator[list[tuple[object, ...]]], check: Callable[[], None]
) -> _WrittenTable:
    """Write one table; its number of rows and time range."""
    schema = pa.schema([pa.field(field.name, _ARROW[field.kind]) for field in fields])
    clock = next((i for i, field in enumerate(fields) if field.name in ("time", "end_time")), None)
    rows, times = 0, list[datetime]()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in chunks:
            check()
            columns = [
                pa.array(values, field.type) for values, field in zip(zip(*chunk, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            rows += len(chunk)
            if clock is not None and (seen := [time for row in chunk if isinstance(time := row[clock], datetime)]):
                times = [min([*times, *seen]), max([*times, *seen])]
    return _WrittenTable(rows, times[0] if times else None, times[-1] if times else None)


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
