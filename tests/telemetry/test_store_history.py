"""Reading history from the store: pages, time range and thinning."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import psycopg2
import pytest

from telemetry.stores import history
from telemetry.stores.migrate import migrate
from tests.monitoring.store_rows import START, at, reading, write


@pytest.mark.parametrize("page_rows", [7, 10_000])
@pytest.mark.parametrize("every_s", [None, 0.5, 10.0, 60.0])
def test_history_returns_the_first_reading_of_each_interval(
    postgres_dsn: str, every_s: float | None, page_rows: int
) -> None:
    migrate(postgres_dsn)
    seconds = np.cumsum(np.random.default_rng(2).uniform(0.5, 9.0, size=300)).round(3)
    write(postgres_dsn, readings=[reading("EV-1", s, temperature=s / 100) for s in seconds])
    begin, until = at(100.0), at(1000.0)
    connection = psycopg2.connect(postgres_dsn)
    pages = list(history.readings(connection, "EV-1", ["temperature"], until, page_rows, begin=begin, every_s=every_s))
    connection.close()
    expected = seconds[(seconds >= 100.0) & (seconds < (until - START) / timedelta(seconds=1))]
    if every_s is not None:
        expected = expected[np.diff(np.floor((expected + START.timestamp()) / every_s), prepend=-np.inf) > 0]
    found = np.concatenate(pages)
    assert found[:, 0] - START.timestamp() == pytest.approx(expected, abs=1e-6)
    assert found[:, 1] == pytest.approx(expected / 100)
    assert all(len(page) <= page_rows for page in pages)
