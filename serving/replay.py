"""Restores battery states by replaying stored cycles and readings from the telemetry store.

Used if a state was written by another state version or is lost, and for the first state of a battery that has history.
Shared by the stream scorer and the database predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np

from features.state import READING_INPUTS, FloatArray, new_states, set_battery
from features.state_update import update_from_cycles, update_from_readings
from telemetry.batch import Row
from telemetry.chemistries import CHEMISTRY_NAMES
from telemetry.stores import history

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = READING_INPUTS[1:]


def replay(connection: history.Connection, battery_ids: Sequence[str], until: Sequence[datetime | None]) -> FloatArray:
    """Restore battery states as of just before `until` from the tables batteries, battery_cycles and ev_telemetry.

    The order is that of training: published cycles first, then readings in time order, so that the state is bitwise
    that of the offline feature pipeline on the same tables.  A late reading, which is not applied on arrival, is
    applied here in time order.  Sessions whose readings were deleted by retention are applied from their summaries.

    Args:
        connection: to the telemetry store, outside of a transaction.
        until: for each battery the exclusive end of the replayed history; None: no end.

    Returns:
        float64[n, STATE_SIZE], one row for each of `battery_ids`.

    Raises:
        psycopg2.Error: the store is unavailable.
    """
    states = new_states(len(battery_ids))
    described = history.batteries(connection, battery_ids)
    for state, battery_id, end in zip(states, battery_ids, until, strict=True):
        set_battery_from_row(state, described.get(battery_id))
        _replay_one(connection, state, battery_id, end)
    return states


def set_battery_from_row(state: FloatArray, battery: Row | None) -> None:
    """Set the battery's capacity, cells and chemistry in `state`, in place, from a row of the table `batteries`.

    Without a row the state stays as it is.  An unknown chemistry counts as missing, because a stream cannot reject it.
    """
    if battery is None:
        return
    chemistry = str(battery.get("chemistry") or "").upper()
    set_battery(
        state,
        nominal_capacity_ah=cast(float | None, battery.get("nominal_capacity_ah")),
        cells_in_series=cast(float | None, battery.get("cells_in_series")),
        chemistry=chemistry if chemistry in CHEMISTRY_NAMES else None,
    )


def _replay_one(connection: history.Connection, state: FloatArray, battery_id: str, until: datetime | None) -> None:
    pages = history.readings(connection, battery_id, _COLUMNS, until)
    page = next(pages, None)
    first = None if page is None else _EPOCH + timedelta(seconds=float(page[0, 0]))
    cycles = history.cycles(connection, battery_id, first_reading=first, until=until)
    row = state[np.newaxis, :]
    update_from_cycles(row, np.zeros(len(cycles), dtype=np.int64), cycles)
    while page is not None:
        update_from_readings(row, np.zeros(len(page), dtype=np.int64), page)
        page = next(pages, None)
