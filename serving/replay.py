"""Rebuild the states of batteries from what the store has kept of them.

Needed when a state was written by another version of the fold, when it is lost, and for the first state of a battery
that has a past.  Shared by the stream scorer and the database predictor.
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
    """States of batteries as of just before `until`, from the tables batteries, battery_cycles and ev_telemetry.

    In the order of training: published cycles first, then readings in time order, so that the state has the bits
    that an offline fold of the same tables gives.  A reading that came late was not folded when it came, and is
    here, in its place.  Sessions whose readings were retired are folded from their summaries.

    Args:
        connection: to the telemetry store, not in the middle of a transaction.
        until: for each battery the time of the reading at hand, which is not folded; None: everything is.

    Returns:
        float64[n, STATE_SIZE], a row for each of `battery_ids`.

    Raises:
        psycopg2.Error: the store did not answer.
    """
    states = new_states(len(battery_ids))
    known = history.batteries(connection, battery_ids)
    for state, battery_id, end in zip(states, battery_ids, until, strict=True):
        tell(state, known.get(battery_id))
        _replay_one(connection, state, battery_id, end)
    return states


def tell(state: FloatArray, battery: Row | None) -> None:
    """Tell `state`, in place, what its battery is made of by a row of the table `batteries`; None: nothing is known.

    A chemistry that this version does not know counts as not given: a stream has nobody to refuse it to.
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
