"""A delivery moves on only with what its sink has acknowledged, and holds up no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetry.batch import Batch, Kind
from telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from telemetry.spool.delivery import Delivery, SinkWorker
from telemetry.spool.spool import MIN_BYTES, Spool
from tests.telemetry.spool.rows import reading


class ListSink:
    """A destination in memory that can be away, refuse numbers, or die between write and flush."""

    def __init__(self, refused: frozenset[int] = frozenset()) -> None:
        self.taken: list[int] = []
        self.kinds: tuple[Kind, ...] = ("reading",)
        self.acknowledged = 0
        self.is_away = False
        self.dies_before_flush = 0
        self._refused = refused
        self._unflushed: list[int] = []

    def setup(self) -> None:
        self._answer()

    def write(self, batch: Batch) -> None:
        self._answer()
        numbers = [int(str(row["current"]).split(".")[0]) for row in batch.readings]
        if self._refused & set(numbers):
            raise SinkRefusedError("never")
        self._unflushed += numbers

    def flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        if self.dies_before_flush:
            self.dies_before_flush -= 1
            raise SinkUnavailableError("died")
        self.taken += unflushed
        self.acknowledged += len(unflushed)

    def close(self) -> None:
        self.is_away = True

    def _answer(self) -> None:
        if self.is_away:
            raise SinkUnavailableError("away")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", {"a": ("reading",), "b": ("reading",)}, max_bytes=MIN_BYTES)
    yield spool
    spool.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def test_a_dead_sink_holds_up_nobody_and_gets_everything_when_it_is_back(spool: Spool) -> None:
    alive, dead = ListSink(), ListSink()
    dead.is_away = True
    deliveries = [Delivery(spool, "a", SinkWorker(alive)), Delivery(spool, "b", SinkWorker(dead))]
    for delivery in deliveries:
        delivery.start()
    for number in range(20):
        spool.append(Batch(readings=[reading(number)]))
    wait_until(lambda: alive.taken == list(range(20)))
    wait_until(lambda: deliveries[1].failures > 0)
    assert (dead.taken, deliveries[1].last_error, deliveries[1].is_drained) == ([], "away", False)
    dead.is_away = False
    wait_until(lambda: dead.taken == list(range(20)))
    wait_until(lambda: all(delivery.is_drained for delivery in deliveries))
    assert all(delivery.stop(5.0) for delivery in deliveries)
    assert deliveries[1].last_error is None


def test_what_was_written_but_not_acknowledged_is_written_again(spool: Spool) -> None:
    sink = ListSink()
    sink.dies_before_flush = 2
    spool.append(Batch(readings=[reading(number) for number in range(5)]))
    delivery = Delivery(spool, "a", SinkWorker(sink))
    delivery.start()
    wait_until(lambda: delivery.is_drained)
    assert sink.taken == [0, 1, 2, 3, 4]
    assert delivery.failures == 2
    delivery.stop(5.0)


def test_refused_rows_are_set_aside_alone(spool: Spool) -> None:
    sink = ListSink(refused=frozenset({3, 11}))
    spool.append(Batch(readings=[reading(number) for number in range(16)]))
    delivery = Delivery(spool, "a", SinkWorker(sink))
    delivery.start()
    wait_until(lambda: delivery.is_drained)
    assert sink.taken == [number for number in range(16) if number not in (3, 11)]
    assert [row.reason for row in spool.all_quarantined()] == ["never", "never"]
    assert (delivery.delivered, delivery.refused) == (14, 2)
    delivery.stop(5.0)


def test_a_failure_that_nobody_foresaw_ends_no_delivery(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.spool.delivery.LAST_RETRY_S", 0.05)
    sink = ListSink()
    calls = iter([ZeroDivisionError("oops")])
    write = sink.write

    def fails_once(batch: Batch) -> None:
        for error in calls:
            raise error
        write(batch)

    sink.write = fails_once  # type: ignore[method-assign]
    spool.append(Batch(readings=[reading(0)]))
    delivery = Delivery(spool, "a", SinkWorker(sink))
    delivery.start()
    wait_until(lambda: sink.taken == [0])
    delivery.stop(5.0)
