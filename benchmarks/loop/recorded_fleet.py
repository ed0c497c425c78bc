"""Live batteries with some days of recorded telemetry, which is also written to the telemetry store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from features.labels import LabelParams
from features.table import build
from simulator.fleet import SimulateParams
from simulator.live_pack import LivePack
from telemetry.batch import Batch, rows_of
from telemetry.contract import CYCLE_FIELDS, names
from telemetry.sources.base import empty_table
from telemetry.stores.postgres import PostgresStore

#: Sessions are computed without a minimum of labels.
NO_MINIMUM = LabelParams(min_rows=1, min_events=0)
#: Shares of the battery life at which the first and the last battery start.
LIFE_SHARES = (0.3, 0.85)


def recorded_fleet(
    params: Mapping[str, Any], count: int, dsn: str, *, at: datetime, days: float, step_s: float
) -> list[LivePack]:
    """`count` batteries simulated until `at`, with readings and sessions of their last `days` in the store.

    Args:
        params: content of params.yaml; the batteries are not in the training files of these parameters.
    """
    simulate = SimulateParams.of(params)
    youngest, oldest = LIFE_SHARES
    store = PostgresStore(dsn)
    packs = []
    for number in range(count):
        pack = LivePack.start(
            simulate,
            params["seed"],
            simulate.batteries + number,
            at=at - timedelta(days=days),
            life_share=youngest + (oldest - youngest) * (number + 0.5) / count,
        )
        # Average use from the last log to the first recorded day.
        pack.read(at - timedelta(days=days))
        pack.clear_history()
        readings, batteries = pack.record(pack.last_time + timedelta(seconds=step_s), at, step_s), pack.batteries_row()
        tables = build(readings, empty_table(CYCLE_FIELDS), batteries, NO_MINIMUM)
        sessions = tables.cycles.reindex(columns=names(CYCLE_FIELDS))
        store.write(Batch(readings=rows_of(readings), batteries=rows_of(batteries), cycles=rows_of(sessions)))
        packs.append(pack)
    store.close()
    return packs
