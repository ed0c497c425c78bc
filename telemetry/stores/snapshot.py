"""The telemetry store as files to learn from: a consistent copy that stays as it is while the store lives on.

Cycles are taken whole, since they are few and kept for good; of the readings, the last days of a sample of the
batteries, since whoever learns from the copy holds all of them in memory.  Rows pass through in chunks, so that a store
of any size is copied in bounded memory.
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

import psycopg2
import psycopg2.extensions
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg2 import sql

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, Field, names
from telemetry.errors import TwinError
from telemetry.field_map import FieldMap
from telemetry.stores.relation import find_relation

MANIFEST = "snapshot.json"
READINGS, CYCLES, BATTERIES = "readings.parquet", "cycles.parquet", "batteries.parquet"
#: A table of the site's own, as text in its own columns.
THEIRS = "theirs.parquet"

#: Sessions of which readings are further apart would fall to pieces.
_LONGEST_STEP_S = 60.0
_CHUNK_ROWS = 50_000
_ARROW = {"text": pa.string(), "time": pa.timestamp("us", "UTC"), "float": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True)
class SnapshotParams:
    """What is copied; `snapshot` in params.yaml.

    Attributes:
        days: how much of each battery's readings, back from its newest one.
        every_s: at most one reading a battery in so many seconds, and each at which an alarm changes; 0: all of them.
        batteries: whose readings are taken; as far as possible the same in every snapshot.
    """

    days: float = 7.0
    every_s: float = 10.0
    batteries: int = 50

    def __post_init__(self) -> None:
        if not self.days > 0.0:
            raise TwinError(f"snapshot.days is {self.days!r}; give a number above 0", field="snapshot.days")
        if not 0.0 <= self.every_s <= _LONGEST_STEP_S:
            raise TwinError(
                f"snapshot.every_s is {self.every_s!r}; give a number from 0 to {_LONGEST_STEP_S:g}",
                field="snapshot.every_s",
                value=self.every_s,
            )
        if not self.batteries >= 1:
            raise TwinError(
                f"snapshot.batteries is {self.batteries!r}; give a number from 1 on",
                field="snapshot.batteries",
                value=self.batteries,
            )


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

    Everything is as of one moment.  The same content gives the same bytes and the same folder, which is named by
    its newest row and its hash.

    Args:
        until: leave aside what happened later; None for all that there is.
        field_map: with a table or query of the site's own, which is copied as it is, all of it, in place of our
            table for the same rows; whoever reads the files translates it.
        check: called for each battery and each chunk of rows; what it raises ends the copy, and nothing is left of it.

    Raises:
        TwinError: the store cannot be read or holds nothing to learn from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder) as scratch,
            closing(psycopg2.connect(dsn, connect_timeout=10, application_name="battery-twin-snapshot")) as connection,
        ):
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            arriving = Path(scratch) / "snapshot"
            arriving.mkdir()
            newest = _copy(connection, arriving, params, until, field_map, check)
            digest = hashlib.sha256((arriving / MANIFEST).read_bytes()).hexdigest()
            taken = folder / f"{newest:%Y%m%dT%H%M%SZ}-{digest[:8]}"
            if not taken.is_dir():
                arriving.rename(taken)
    except psycopg2.Error as error:
        lines = str(error).strip().splitlines()
        raise TwinError(
            f"the telemetry store could not be read ({lines[0] if lines else type(error).__name__}); name it in "
            "TWIN_TELEMETRY_DSN, and bring it up to date with `python -m telemetry.stores.migrate`",
            field="telemetry_dsn",
        ) from error
    return taken


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, as the manifest holds it."""
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
    """Write tables and manifest; the time of the newest thing in them, now where nothing of ours has a time."""
    last = until or datetime.max.replace(tzinfo=UTC)
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute("SELECT battery_id FROM batteries ORDER BY battery_id")
        ids = [battery_id for (battery_id,) in cursor.fetchall()]
    theirs = None if field_map is None else _write_theirs(connection, folder / THEIRS, field_map, check)
    ours = [table for table in ("readings", "cycles") if field_map is None or field_map.table != table]
    batteries = _write(
        folder / BATTERIES,
        BATTERY_FIELDS,
        _rows(connection, sql.SQL("SELECT {} FROM batteries ORDER BY battery_id"), BATTERY_FIELDS),
        check,
    )
    cycles = _write(
        folder / CYCLES,
        CYCLE_FIELDS,
        _rows(connection, _CYCLES_SQL, CYCLE_FIELDS, {"until": last}) if "cycles" in ours else iter(()),
        check,
    )
    readings = _write(
        folder / READINGS,
        READING_FIELDS,
        _readings(connection, ids, params, last, check) if "readings" in ours else iter(()),
        check,
    )
    newest = max((table.newest for table in (cycles, readings) if table.newest is not None), default=None)
    if newest is None and theirs is None:
        raise TwinError(
            "the telemetry store holds no reading and no cycle with a time, so there is nothing to learn from yet",
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
        "theirs": None if field_map is None else {"rows": theirs, "table": field_map.table},
        "sha256": {path.name: file_sha256(path) for path in sorted(folder.glob("*.parquet"))},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return newest or datetime.now(UTC)


def _write_theirs(
    connection: psycopg2.extensions.connection, path: Path, field_map: FieldMap, check: Callable[[], None]
) -> int:
    """Write the mapped columns of somebody's table or query as text, in its order of batteries and times."""
    relation = find_relation(connection, field_map)
    order = [column for target in ("battery_id", "time", "cycle_index") if (column := relation.column(target))]
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
        relation.texts(), relation.item, sql.SQL(", ").join(order or [sql.SQL("1")])
    )
    schema = pa.schema([pa.field(column.source, pa.string()) for column in relation.columns])
    rows = 0
    with connection.cursor(name="theirs") as cursor, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        cursor.execute(query, ())
        while chunk := cursor.fetchmany(_CHUNK_ROWS):
            check()
            writer.write_table(
                pa.Table.from_arrays([pa.array(c, pa.string()) for c in zip(*chunk, strict=True)], schema=schema)
            )
            rows += len(chunk)
    return rows


_CYCLES_SQL = sql.SQL("""
    SELECT {} FROM battery_cycles WHERE end_time IS NULL OR end_time <= %(until)s
    ORDER BY battery_id, cycle_index, end_time NULLS FIRST, kind
""")

# The first reading of each step of `every_s`, and each at which the alarm is another than before; in the order of the
# index, so that nothing has to be sorted.
_READINGS_SQL = sql.SQL("""
    SELECT {} FROM (
        SELECT *,
               lag(floor(extract(epoch FROM time)::float8 / %(every_s)s)) OVER (ORDER BY time) AS step_before,
               lag(warning_level) OVER (ORDER BY time) AS warning_before
        FROM ev_telemetry
        WHERE battery_id = %(battery_id)s AND time > %(after)s AND time <= %(until)s AND voltage IS NOT NULL
    ) AS readings
    WHERE step_before IS DISTINCT FROM floor(extract(epoch FROM time)::float8 / %(every_s)s)
       OR warning_before IS DISTINCT FROM warning_level
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
    """Each battery's window, battery by battery: one that has fallen silent teaches with what it said last."""
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
    """The first `count` batteries with readings, in the order of a hash of their names, and the newest of each."""
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
    """The rows of `query`, whose `{}` becomes the columns of `fields`, in chunks from a cursor of the server."""
    with connection.cursor(name="snapshot") as cursor:
        columns = sql.SQL(", ").join(map(sql.Identifier, names(fields)))
        cursor.execute(query.format(columns), values)
        while chunk := cursor.fetchmany(_CHUNK_ROWS):
            yield chunk


@dataclass(frozen=True)
class _Written:
    rows: int
    oldest: datetime | None
    newest: datetime | None


def _write(
    path: Path, fields: Sequence[Field], chunks: Iterator[list[tuple[object, ...]]], check: Callable[[], None]
) -> _Written:
    """Write one table; how many rows it got and from when to when."""
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
    return _Written(rows, times[0] if times else None, times[-1] if times else None)


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
