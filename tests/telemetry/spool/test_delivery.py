"""Delivery from the spool to sinks: acknowledgement, retries, refused rows and independence of the consumers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetry.batch import Batch, RowKind
from telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from telemetry.spool.delivery import Delivery, SinkWorker
from telemetry.spool.spool import MIN_BYTES, Spool
from tests.telemetry.spool.rows import reading


class ListSink:
    """In-memory sink that can be unavailable, refuse numbers, or fail between write and flush."""

    def __init__(self, refused: frozenset[int] = frozenset()) -> None:
        self.stored: list[int] = []
        self.kinds: tuple[RowKind, ...] = ("reading",)
        self.acknowledged = 0
        self.is_unavailable = False
        self.failing_flushes = 0
        self._refused = refused
        self._unflushed: list[int] = []

    def setup(self) -> None:
        self._require_available()

    def write(self, batch: Batch) -> None:
        self._require_available()
        numbers = [int(str(row["current"]).split(".")[0]) for row in batch.readings]
        if self._refused & set(numbers):
            raise SinkRefusedError("never")
        self._unflushed += numbers

    def flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        if self.failing_flushes:
            self.failing_flushes -= 1
            raise SinkUnavailableError("failed")
        self.stored += unflushed
        self.acknowledged += len(unflushed)

    def close(self) -> None:
        self.is_unavailable = True

    def _require_available(self) -> None:
        if self.is_unavailable:
            raise SinkUnavailableError("unavailable")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db", {"a": ("reading",), "b": ("reading",)}, max_bytes=MIN_BYTES)
    yield spool
    spool.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def test_unavailable_sink_delays_no_other_and_gets_all_rows_when_available_again(spool: Spool) -> None:
    available, unavailable = ListSink(), ListSink()
    unavailable.is_unavailable = True
    deliveries = [Delivery(spool, "a", SinkWorker(available)), Delivery(spool, "b", SinkWorker(unavailable))]
    for delivery in deliveries:
        delivery.start()
    for number in range(20):
        spool.append(Batch(readings=[reading(number)]))
    wait_until(lambda: available.stored == list(range(20)))
    wait_until(lambda: deliveries[1].failures > 0)
    assert (unavailable.stored, deliveries[1].last_error, deliveries[1].is_drained) == ([], "unavailable", False)
    unavailable.is_unavailable = False
    wait_until(lambda: unavailable.stored == list(range(20)))
    wait_until(lambda: all(delivery.is_drained for delivery in deliveries))
    assert all(delivery.stop(5.0) for delivery in deliveries)
    assert deliveries[1].last_error is None


def test_unacknowledged_rows_are_written_again(spool: Spool) -> None:
    sink = ListSink()
    sink.failing_flushes = 2
    spool.append(Batch(readings=[reading(number) for number in range(5)]))
    delivery = Delivery(spool, "a", SinkWorker(sink))
    delivery.start()
    wait_until(lambda: delivery.is_drained)
    assert sink.stored == [0, 1, 2, 3, 4]
    assert delivery.failures == 2
    delivery.stop(5.0)


def test_only_refused_rows_of_a_batch_are_quarantined(spool: Spool) -> None:
    sink = ListSink(refused=frozenset({3, 11}))
    spool.append(Batch(readings=[reading(number) for number in range(16)]))
    delivery = Delivery(spool, "a", SinkWorker(sink))
    delivery.start()
    wait_until(lambda: delivery.is_drained)
    assert sink.stored == [number for number in range(16) if number not in (3, 11)]
    assert [row.reason for row in spool.quarantined()] == ["never", "never"]
    assert (delivery.delivered, delivery.refused) == (14, 2)
    delivery.stop(5.0)


def test_delivery_continues_after_an_unexpected_exception(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
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
    wait_until(lambda: sink.stored == [0])
    delivery.stop(5.0)
