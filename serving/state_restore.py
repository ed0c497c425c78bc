"""Loads battery states from stored bytes, and restores unusable ones by replaying the history in the telemetry store.

Shared by the stream scorer and the database predictor.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

from features.battery_row import set_battery_from_row
from features.state import (
    EVENTS,
    READING_INPUTS,
    FloatArray,
    StateError,
    continue_age,
    from_bytes,
    new_states,
    view,
)
from features.state_update import update_from_cycles, update_from_readings
from telemetry.batch import Row
from telemetry.stores import history
from telemetry.stores.battery_events import NO_EVENTS, BatteryEvent, StateEvents, state_events
from telemetry.stores.connection import StoreConnection

#: Why a state has to be restored: there is none, it cannot be decoded, the battery's description has changed, or an
#: event of the battery was entered.
Cause = Literal["absent", "unusable", "described", "event"]
CAUSES: tuple[Cause, ...] = ("absent", "unusable", "described", "event")

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = READING_INPUTS[1:]
#: How long the description of a battery whose capacity is known is used before it is read again.
_REFRESH_S = 60.0


class RestoreIncompleteError(RuntimeError):
    """Restoring takes longer than the time limit; the next call continues after the states restored so far."""


class StateRestorer:
    """Loads the states of batteries as of just before their next readings.

    Args:
        store: connection to the telemetry store.  None: there is no store, so that no battery is described, and one
            without a usable state starts with a new one.
        budget_s: time limit for restoring in one call: a stream consumer that does not poll for minutes loses its
            partitions, and the database predictor holds locks.
    """

    def __init__(self, store: StoreConnection | None, budget_s: float = 60.0) -> None:
        self._store = store
        self._budget_s = budget_s
        self._described: dict[str, Row] = {}
        self._events: dict[str, list[BatteryEvent]] = {}
        self._described_at = float("-inf")
        self._restored: dict[str, tuple[tuple[datetime, int], FloatArray]] = {}
        self._causes: Counter[Cause] = Counter()
        self._invalid: Counter[str] = Counter()
        self._reported: set[tuple[str, str]] = set()

    def load(
        self,
        battery_ids: Sequence[str],
        stored: Sequence[bytes | None],
        until: Sequence[datetime | None],
        first_new: Sequence[datetime | None] | None = None,
    ) -> FloatArray:
        """float64[n, STATE_SIZE]: the states of `battery_ids`, with the batteries' descriptions set.

        A state is restored by replay if there is none, if it is damaged or of another state version, if the
        battery's description has changed since the state was updated (features are relative to the capacity), or if
        it does not include the events of the battery.

        Args:
            stored: `features.state.to_bytes` of each state, None if there is none.
            until: exclusive end of the history of each state; None if no reading is to be applied.
            first_new: time of the next reading of each battery, up to which events count; None: as `until`.

        Raises:
            RestoreIncompleteError: the time limit is exceeded; a repeated call continues.
            psycopg2.Error: the store is unavailable.
        """
        deadline = time.monotonic() + self._budget_s
        described = self.descriptions(battery_ids)
        states = new_states(len(battery_ids))
        next_times = until if first_new is None else first_new
        for i, (battery_id, raw, end) in enumerate(zip(battery_ids, stored, until, strict=True)):
            battery = described.get(battery_id)
            states[i], cause, invalid = _decode_state(raw, battery_id, battery)
            self._report_invalid(battery_id, battery, invalid)
            events = StateEvents.of(self._events.get(battery_id, ()), next_times[i] or end)
            cause = cause or ("event" if states[i, EVENTS] != events.checksum else None)
            if cause is None or end is None or self._store is None:
                continue
            key = (end, events.checksum)
            if self._restored.get(battery_id, (None,))[0] != key:
                if time.monotonic() > deadline:
                    raise RestoreIncompleteError(f"restored {len(self._restored)} of {len(battery_ids)} states")
                with self._store.open() as connection:
                    self._restored[battery_id] = key, replay(connection, battery_id, battery, end, events)
                self._causes[cause] += 1
            replayed = self._restored[battery_id][1]
            # The store may lag behind a stream: the stored state is then used despite the change.
            if cause not in ("described", "event") or not view(states[i]).time_s > view(replayed).time_s:
                states[i] = replayed
        return states

    def descriptions(self, battery_ids: Sequence[str]) -> Mapping[str, Row]:
        """Rows of the table `batteries`, by id.

        Rows with a capacity are cached for a minute; others are queried each time, because many features need it.

        Raises:
            psycopg2.Error: the store is unavailable.
        """
        if self._store is None:
            return {}
        if time.monotonic() - self._described_at > _REFRESH_S:
            self._described, self._events, self._described_at = {}, {}, time.monotonic()
        missing = [battery_id for battery_id in battery_ids if battery_id not in self._described]
        if not missing:
            return self._described
        with self._store.open() as connection:
            found = history.batteries(connection, missing)
            with connection, connection.cursor() as cursor:
                self._events |= state_events(cursor, missing)
        self._described |= {key: row for key, row in found.items() if row["nominal_capacity_ah"] is not None}
        return self._described | found

    def _report_invalid(self, battery_id: str, battery: Row | None, invalid: Sequence[str]) -> None:
        for name in invalid:
            if (battery_id, name) not in self._reported and battery is not None:
                self._reported.add((battery_id, name))
                self._invalid[name] += 1
                logger.warning(
                    "battery %s: %s is %s, which is outside of the contract, and counts as missing: correct the table "
                    "batteries", battery_id, name, battery[name],
                )  # fmt: skip

    def take_invalid(self) -> Counter[str]:
        """Number of batteries with an invalid description found since the last call, by column."""
        invalid, self._invalid = self._invalid, Counter()
        return invalid

    def commit(self) -> None:
        """Drop the restored states, which have been stored."""
        self._restored = {}

    def take_causes(self) -> Counter[Cause]:
        """Number of restored states since the last call, by cause."""
        causes, self._causes = self._causes, Counter()
        return causes

    def close(self) -> None:
        """Close the connection; the next query opens a new one."""
        if self._store is not None:
            self._store.close()


def replay(
    connection: history.Connection,
    battery_id: str,
    battery: Row | None,
    until: datetime | None,
    events: StateEvents = NO_EVENTS,
) -> FloatArray:
    """Restore a battery's state, float64[STATE_SIZE], as of just before `until` (None: no end) from the store.

    The order is that of training: published cycles first, then readings in time order, so that the state is bitwise
    that of the offline feature pipeline on the same tables.  A late reading, which is not applied on arrival, is
    applied here in time order.  Sessions whose readings were deleted by retention are applied from their summaries.

    Args:
        connection: to the telemetry store, outside of a transaction.
        battery: its row of the table `batteries`, if there is one.
        events: rows from before its replacement are left out, and at its resets the age goes on.

    Raises:
        psycopg2.Error: the store is unavailable.
    """
    states = new_states(1)
    set_battery_from_row(states[0], battery)
    states[0, EVENTS] = events.checksum
    resets_s = [time.timestamp() for time in events.resets]
    pages = history.readings(connection, battery_id, _COLUMNS, until, begin=events.began)
    page = next(pages, None)
    first = None if page is None else _EPOCH + timedelta(seconds=float(page[0, 0]))
    cycles = history.cycles(connection, battery_id, first_reading=first, until=until, begin=events.began)
    update_from_cycles(states, np.zeros(len(cycles), dtype=np.int64), cycles)
    while page is not None:
        due = [reset_s for reset_s in resets_s if reset_s <= page[-1, 0]]
        for part in np.split(page, np.searchsorted(page[:, 0], due)):
            update_from_readings(states, np.zeros(len(part), dtype=np.int64), part)
            if due:
                continue_age(states[0])
                resets_s.remove(due.pop(0))
        page = next(pages, None)
    if resets_s:
        continue_age(states[0])
    state: FloatArray = states[0]
    return state


def _decode_state(
    raw: bytes | None, battery_id: str, battery: Row | None
) -> tuple[FloatArray, Cause | None, list[str]]:
    """The state, or a new one, with the battery's description set, the cause if it has to be restored, and the columns
    of the description that are invalid and count as missing."""
    cause: Cause | None = "absent" if raw is None else None
    state: FloatArray = new_states(1)[0]
    try:
        state = state if raw is None else from_bytes(raw, battery_id)
    except StateError:
        cause = "unusable"
    before = state.copy()
    invalid = set_battery_from_row(state, battery)
    return state, cause or (None if np.array_equal(before, state, equal_nan=True) else "described"), invalid
