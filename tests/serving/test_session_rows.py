"""Closed sessions as rows of battery_cycles: the same sessions and labels as in the offline feature pipeline."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from features import state_update
from features.labels import LabelParams
from features.state import FloatArray, new_states, set_battery
from features.table import build
from serving.session_rows import cycle_rows
from telemetry.batch import Batch, rows_of
from telemetry.contract import CYCLE_FIELDS, SIGNALS, names
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from telemetry.stores.snapshot import SnapshotParams, take_snapshot
from tests.features.conftest_features import drive, empty_frame

IDS = ["EV-0", "EV-1"]


def readings() -> pd.DataFrame:
    """Interleaved readings of two batteries on three days with gaps in between."""
    times = np.concatenate([np.arange(0.0, 10_800.0, 30.0) + 86_400.0 * day for day in range(3)])
    both = pd.concat([drive(times, seed) for seed in (0, 1)], ignore_index=True).sort_values("time", kind="stable")
    return both.assign(soh=95.0 - np.arange(len(both)) / 1e3, warning_level=0.0).reset_index(drop=True)


def batteries() -> pd.DataFrame:
    return pd.DataFrame({"battery_id": IDS, "nominal_capacity_ah": 100.0, "cells_in_series": 96.0, "chemistry": "NMC"})


def states() -> FloatArray:
    states = new_states(len(IDS))
    for state in states:
        set_battery(state, nominal_capacity_ah=100.0, cells_in_series=96.0, chemistry="NMC")
    return states


def offline() -> pd.DataFrame:
    built = build(readings(), empty_frame(CYCLE_FIELDS), batteries(), LabelParams())
    return built.cycles.sort_values(["battery_id", "end_time"]).reset_index(drop=True)


def closed_sessions(frame: pd.DataFrame, into: FloatArray) -> list[dict[str, object]]:
    row = np.searchsorted(IDS, frame["battery_id"])
    closed = state_update.update_from_readings(into, row, state_update.readings_matrix(frame)).closed
    return [dict(one) for one in cycle_rows(closed, IDS, battery_row=row, soh=frame["soh"].to_numpy())]


def test_rows_equal_the_sessions_of_the_feature_pipeline() -> None:
    expected = offline()
    rows = (
        pd.DataFrame(closed_sessions(readings(), states()))
        .sort_values(["battery_id", "end_time"])
        .reset_index(drop=True)
    )
    assert len(rows) == len(expected) >= 8
    assert set(rows) <= set(names(CYCLE_FIELDS))
    columns = ["battery_id", "kind", "cycle_index", "throughput_ah", "start_time", "end_time", "soh", *SIGNALS]
    pd.testing.assert_frame_equal(rows[columns], expected[columns], check_dtype=False, check_exact=True)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_store_sets_the_label_of_a_session_that_ended_in_a_later_batch(
    size: int, postgres_dsn: str, tmp_path: object
) -> None:
    migrate(postgres_dsn)
    store = PostgresStore(postgres_dsn)
    frame, current = readings(), states()
    store.write(Batch(readings=rows_of(frame)))
    rows = [
        row for start in range(0, len(frame), size) for row in closed_sessions(frame[start : start + size], current)
    ]
    store.write(Batch(cycles=rows))
    store.close()
    taken = take_snapshot(postgres_dsn, tmp_path, SnapshotParams(days=100.0))  # type: ignore[arg-type]
    stored = pd.read_parquet(taken / "cycles.parquet").sort_values(["battery_id", "end_time"]).reset_index(drop=True)
    expected = offline()
    assert stored["end_time"].tolist() == expected["end_time"].tolist()
    # The label may be that of the reading that ended the session, one reading later, with nearly the same SoH.
    assert stored["soh"].to_numpy() == pytest.approx(expected["soh"].to_numpy(dtype=float), abs=0.003)
    assert stored["warning_level"].eq(0.0).all()


def test_sessions_have_no_label_without_readings() -> None:
    frame = readings()
    closed = state_update.update_from_readings(
        states(), np.searchsorted(IDS, frame["battery_id"]), state_update.readings_matrix(frame)
    ).closed
    assert {row["soh"] for row in cycle_rows(closed, IDS)} == {None}
    assert cycle_rows(closed[:0], IDS) == []
