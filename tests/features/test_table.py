"""Feature tables: which rows are labelled, which targets are not available and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest_features import drive

from features.labels import LabelParams
from features.leakage_check import LeakageError
from features.table import FeatureTables, build
from features.targets import TARGETS
from pipelines.features import features

Cells = tuple[pd.DataFrame, pd.DataFrame]


def test_laboratory_cells_give_three_targets(cells: Cells, no_readings: pd.DataFrame) -> None:
    cycles, batteries = cells
    built = build(no_readings, cycles, batteries, LabelParams(failure_horizon_cycles=20))
    assert set(built.tables) == {"soh", "rul", "failure"}
    assert built.not_available == {"temperature": "the source has no readings"}
    assert len(built.tables["soh"]) == len(cycles)
    assert len(built.cycles) == len(cycles)


def test_censored_cells_have_no_remaining_cycles_label(cells: Cells, no_readings: pd.DataFrame) -> None:
    cycles, batteries = cells
    built = build(no_readings, cycles, batteries, LabelParams(failure_horizon_cycles=20))
    last = cycles.sort_values("cycle_index").groupby("battery_id")["capacity_ah"].last()
    censored = set(last[last > 0.81].index)
    assert censored, "the fixture has no cell that does not reach its end of life"
    assert set(built.censored) == {"rul"}
    without_end = set(built.censored["rul"]["battery_id"])
    assert censored <= without_end
    assert not without_end & set(built.tables["rul"]["battery_id"])
    assert not censored & set(built.tables["rul"]["battery_id"])
    observed = built.tables["failure"][built.tables["failure"]["battery_id"].isin(censored)]
    assert (observed["fails_within_horizon"] == 0.0).all()
    assert observed["cycle_index"].max() <= 160 - 20


def test_measured_capacity_without_signals_gives_no_tables(cells: Cells, no_readings: pd.DataFrame) -> None:
    cycles, batteries = cells
    no_signal = cycles.assign(cc_charge_time_s=np.nan, cv_charge_time_s=np.nan, cc_voltage_mean_v=np.nan)
    built = build(no_readings, no_signal, batteries, LabelParams())
    assert built.tables == {}
    assert "no telemetry to learn from for 12 batteries" in built.notes[0]
    assert built.not_available["soh"] == "the source has no cycles with any statistic to learn from"


def test_readings_give_a_temperature_table_and_closed_sessions(no_cycles: pd.DataFrame) -> None:
    days = [drive(np.arange(0.0, 10_800.0, 30.0) + 86_400.0 * day, seed=1) for day in range(5)]
    readings = pd.concat(days, ignore_index=True).assign(soh=97.0, warning_level=0.0)
    batteries = pd.DataFrame(
        {"battery_id": ["EV-1"], "nominal_capacity_ah": [100.0], "cells_in_series": [96.0], "chemistry": ["NMC"]}
    )
    built = build(readings, no_cycles, batteries, LabelParams(min_rows=5))
    table = built.tables["temperature"]
    assert len(table) > 150
    assert table["time"].diff().dropna().min() >= pd.Timedelta(seconds=60)
    assert set(built.cycles["kind"]) == {"charge", "discharge"}
    assert built.tables["soh"]["soh_fraction"].unique().tolist() == [0.97]
    assert "no battery was observed until its end of life" in built.not_available["rul"]


def history(no_cycles: pd.DataFrame, days: int = 12) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Readings of a battery whose cycle counter has whole numbers, its batteries table and all its sessions."""
    parts = [drive(np.arange(0.0, 10_800.0, 30.0) + 86_400.0 * day, seed=1) for day in range(days)]
    readings = pd.concat(parts, ignore_index=True)
    readings = readings.assign(
        soh=98.0 - readings.index / 1e4, warning_level=0.0, charge_cycles=40.0 + (readings.index + 180) // 720
    )
    batteries = pd.DataFrame(
        {"battery_id": ["EV-1"], "nominal_capacity_ah": [100.0], "cells_in_series": [96.0], "chemistry": ["NMC"]}
    )
    whole = build(readings, no_cycles, batteries, LabelParams(min_rows=5))
    return readings, batteries, whole.cycles.reindex(columns=no_cycles.columns)


def test_stored_sessions_give_the_rows_that_their_readings_gave(no_cycles: pd.DataFrame) -> None:
    readings, batteries, sessions = history(no_cycles)
    assert sessions["cycle_index"].duplicated().any(), "several sessions end at the same age"
    params = LabelParams(min_rows=5)
    whole = build(readings, no_cycles, batteries, params)
    # The database keeps all sessions, but only the last three days of readings.
    window = readings[readings["time"] >= readings["time"].max() - pd.Timedelta(days=3)]
    again = build(window, sessions, batteries, params)
    assert len(again.cycles) == len(sessions), "no session counts twice"
    columns = [name for name in whole.tables["soh"] if name != "cycle_index"]
    pd.testing.assert_frame_equal(again.tables["soh"][columns], whole.tables["soh"][columns], rtol=1e-12)
    assert any("sessions closed from readings were ignored" in note for note in again.notes)
    # Averages over minutes come from the window of readings, averages over cycles from the sessions before it.
    expected = whole.tables["temperature"].set_index("time").loc[again.tables["temperature"]["time"]]
    got = again.tables["temperature"].set_index("time")
    comparable = got.index > window["time"].min() + pd.Timedelta(hours=3)
    columns = [name for name in got if name not in ("cycle_index", "life_quarter")]
    pd.testing.assert_frame_equal(got.loc[comparable, columns], expected.loc[comparable, columns])
    assert got["resistance_at_1c_v"].notna().all()


def test_leakage_check_passes_sessions_with_a_window_of_readings(no_cycles: pd.DataFrame) -> None:
    readings, batteries, sessions = history(no_cycles)
    window = readings[readings["time"] >= readings["time"].max() - pd.Timedelta(days=3)]
    built = features(window, sessions, batteries, LabelParams(min_rows=5))
    assert {"soh", "temperature"} <= set(built.tables)


def test_leakage_check_compares_readings_older_than_the_sessions(
    no_cycles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, batteries, sessions = history(no_cycles)
    newest = sessions.sort_values("end_time").tail(len(sessions) // 4)
    middle = readings["time"].iloc[len(readings) // 2]
    assert newest["end_time"].min() > middle
    tables = features(readings, newest, batteries, LabelParams(min_rows=2)).tables
    assert set(tables) == {"soh", "temperature"}

    def build_with_future_value(*history: Any) -> FeatureTables:
        built = build(*history)
        if "soh" in built.tables:
            built.tables["soh"]["cycles"] = len(built.tables["soh"])
        return built

    monkeypatch.setattr("pipelines.features.build", build_with_future_value)
    with pytest.raises(LeakageError, match="cycles comes from the future"):
        features(readings, newest, batteries, LabelParams(min_rows=2))


def test_alarms_are_failure_events_without_any_measured_soh(no_cycles: pd.DataFrame) -> None:
    days = [drive(np.arange(0.0, 10_800.0, 30.0) + 86_400.0 * day, seed=1) for day in range(40)]
    readings = pd.concat(days, ignore_index=True).assign(soh=np.nan, warning_level=0.0)
    readings.loc[len(readings) // 2, "warning_level"] = 3.0
    batteries = pd.DataFrame(
        {"battery_id": ["EV-1"], "nominal_capacity_ah": [100.0], "cells_in_series": [96.0], "chemistry": ["NMC"]}
    )
    built = build(readings, no_cycles, batteries, LabelParams(failure_horizon_cycles=4, min_events=5, min_rows=20))
    label = built.tables["failure"]["fails_within_horizon"]
    assert 0 < label.sum() < len(label)
    quiet = build(
        readings.assign(warning_level=0.0),
        no_cycles,
        batteries,
        LabelParams(failure_horizon_cycles=4, min_events=5, min_rows=20),
    )
    assert "0 are followed by a failure" in quiet.not_available["failure"]
    unknown = build(
        readings.assign(warning_level=np.nan),
        no_cycles,
        batteries,
        LabelParams(failure_horizon_cycles=4, min_events=5, min_rows=20),
    )
    assert unknown.not_available["failure"].startswith("0 labelled rows")


def test_no_failure_label_for_a_battery_that_never_reports_alarm_levels(no_cycles: pd.DataFrame) -> None:
    days = [drive(np.arange(0.0, 10_800.0, 30.0) + 86_400.0 * day, seed=1) for day in range(40)]
    reporting = pd.concat(days, ignore_index=True).assign(soh=np.nan, warning_level=0.0)
    reporting.loc[len(reporting) // 2, "warning_level"] = 3.0
    not_reporting = reporting.assign(battery_id="EV-2", warning_level=np.nan)
    batteries = pd.DataFrame({"battery_id": ["EV-1", "EV-2"], "nominal_capacity_ah": [100.0, 100.0]})
    params = LabelParams(failure_horizon_cycles=4, min_events=5, min_rows=20)
    built = build(pd.concat([reporting, not_reporting], ignore_index=True), no_cycles, batteries, params)
    assert set(built.cycles["battery_id"]) == {"EV-1", "EV-2"}
    assert set(built.tables["failure"]["battery_id"]) == {"EV-1"}


def test_out_of_order_rows_are_noted(no_cycles: pd.DataFrame) -> None:
    readings = drive(np.arange(0.0, 3600.0, 30.0), seed=1).assign(soh=np.nan, warning_level=np.nan)
    batteries = pd.DataFrame({"battery_id": ["EV-1"], "nominal_capacity_ah": [100.0]})
    doubled = pd.concat([readings, readings.head(7)], ignore_index=True)
    built = build(doubled, no_cycles, batteries, LabelParams())
    assert any(note.startswith("7 rows were not newer") for note in built.notes)


def test_empty_source_gives_no_tables(no_readings: pd.DataFrame, no_cycles: pd.DataFrame) -> None:
    batteries = pd.DataFrame({"battery_id": pd.Series(dtype=object), "nominal_capacity_ah": pd.Series(dtype=float)})
    built = build(no_readings, no_cycles, batteries, LabelParams())
    assert not built.tables
    assert set(built.not_available) == set(TARGETS)


def test_battery_with_unknown_chemistry_gives_tables(cells: Cells, no_readings: pd.DataFrame) -> None:
    cycles, batteries = cells
    unknown = batteries.assign(chemistry=pd.Series([None] * len(batteries), dtype="str"), cells_in_series=np.nan)
    assert "soh" in build(no_readings, cycles, unknown, LabelParams()).tables
