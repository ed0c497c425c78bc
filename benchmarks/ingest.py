"""Benchmark of writing readings to the telemetry store: the sink, against `\\copy` and single-row INSERT."""

from __future__ import annotations

import csv
import io
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psycopg2
import psycopg2.extensions

from deploy.servers.install import DEBIAN
from deploy.servers.postgres import License, missing_timescaledb, postgres
from telemetry.batch import Batch, Row
from telemetry.contract import READING_FIELDS, names
from telemetry.embedded.postgres import embedded_postgres
from telemetry.sinks.postgres import StoreSink

ROWS = 5_000
_BATTERIES = 100
_ROUNDS = 9
_INSERTS = 300
_START = datetime(2026, 1, 1, tzinfo=UTC)
_COLUMNS = names(READING_FIELDS)


def readings(first: int, count: int, batteries: int = _BATTERIES) -> list[Row]:
    """`count` readings with every field, of `batteries` in turn; `first` is the number of the first reading."""
    rng = random.Random(first)  # noqa: S311 - synthetic telemetry
    numbers = [name for name in _COLUMNS if name not in ("battery_id", "time", "is_charging")]
    return [
        {
            "battery_id": f"EV-{number % batteries:03}",
            "time": _START + timedelta(seconds=0.5 * (number // batteries)),
            "is_charging": rng.random() < 0.3,
            **{name: rng.uniform(3.0, 100.0) for name in numbers},
        }
        for number in range(first, first + count)
    ]


def ingest() -> list[dict[str, Any]]:
    """Rows per second into each installed database; sink and references are interleaved on the same table."""
    measurements = []
    for label, missing, server in servers():
        if missing is None:
            with tempfile.TemporaryDirectory(prefix="twin-bench-") as folder, server(Path(folder)) as dsn:
                measurements += _measurements(label, dsn)
    return measurements


def servers() -> list[tuple[str, str | None, Callable[[Path], AbstractContextManager[str]]]]:
    """Label, missing package (or None) and start function of each database; all commits are durable."""
    debian = DEBIAN["postgresql-15"].missing()
    return [
        ("PostgreSQL 15", debian, lambda folder: _debian(folder, None)),
        ("TimescaleDB", debian or missing_timescaledb(), lambda folder: _debian(folder, "timescale")),
        ("embedded PostgreSQL 18", None, embedded_postgres),
    ]


@contextmanager
def _debian(folder: Path, timescaledb: License | None) -> Iterator[str]:
    with postgres(folder, timescaledb=timescaledb) as running:
        yield running.dsn


def _measurements(label: str, dsn: str) -> list[dict[str, Any]]:
    sink = StoreSink(dsn)
    sink.setup()
    with closing(psycopg2.connect(dsn)) as connection:
        methods: dict[str, tuple[int, Callable[[Sequence[Row]], Callable[[], None]]]] = {
            "sink": (ROWS, lambda rows: partial(_through_sink, sink, rows)),
            "copy": (ROWS, lambda rows: partial(_copy, connection, _csv(rows))),
            "insert": (_INSERTS, lambda rows: partial(_insert, connection, rows, 1)),
            "insert at once": (_INSERTS, lambda rows: partial(_insert, connection, rows, _INSERTS)),
        }
        rates: dict[str, list[float]] = {name: [] for name in methods}
        first = 0
        for number in range(_ROUNDS + 1):
            for name, (count, prepare) in methods.items():
                rate = count / _seconds(prepare(readings(first, count)))
                first += ROWS
                if number > 0:  # the first round warms up
                    rates[name].append(rate)
    sink.close()
    value = median(rates["sink"])
    peers = (
        ("ingest_vs_copy", f"\\copy of the same rows, {label}", "copy"),
        ("ingest_vs_insert", f"one INSERT and commit a row, {label}", "insert"),
        (
            "ingest_vs_insert_one_transaction",
            f"one INSERT a row, one commit for {_INSERTS}, {label}",
            "insert at once",
        ),
    )
    return [
        {
            "name": name,
            "value": value,
            "unit": "rows/s",
            "peer": peer,
            "peer_value": median(rates[key]),
            "ratio": value / median(rates[key]),
        }
        for name, peer, key in peers
    ]


def _seconds(write: Callable[[], None]) -> float:
    began = time.perf_counter()
    write()
    return time.perf_counter() - began


def _through_sink(sink: StoreSink, rows: Sequence[Row]) -> None:
    sink.write(Batch(readings=rows))
    sink.flush()


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([row[name] for name in _COLUMNS] for row in rows)
    return text.getvalue()


def _copy(connection: psycopg2.extensions.connection, text: str) -> None:
    """COPY as `\\copy` does with a file."""
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY ev_telemetry ({', '.join(_COLUMNS)}) FROM STDIN WITH (FORMAT csv)", io.StringIO(text))


def _insert(connection: psycopg2.extensions.connection, rows: Sequence[Row], rows_per_commit: int) -> None:
    placeholders = ", ".join(["%s"] * len(_COLUMNS))
    statement = f"INSERT INTO ev_telemetry ({', '.join(_COLUMNS)}) VALUES ({placeholders})"  # noqa: S608 - constant names
    with connection.cursor() as cursor:
        for number, row in enumerate(rows, 1):
            cursor.execute(statement, [row[name] for name in _COLUMNS])
            if number % rows_per_commit == 0:
                connection.commit()
