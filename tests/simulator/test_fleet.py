"""Tests of the simulated fleet: contract columns, plausible physics, and identical bytes for the same seed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from physics.pack import SOC
from pipelines.simulate import write_fleet
from simulator.battery import random_streams
from simulator.battery_days import advance_days
from simulator.climate import SECONDS_PER_DAY
from simulator.faults import NO_FAULT
from simulator.fleet import (
    TRUTH_COLUMNS,
    SimulatedFleet,
    SimulateParams,
    new_battery,
    simulate_battery,
    simulate_fleet,
    simulate_history,
)
from telemetry.contract import BATTERY_FIELDS, READING_FIELDS, READING_REQUIRED, names
from telemetry.errors import TwinError

SEED = 7
PARAMS = SimulateParams(batteries=6, days_between_logs=120.0)


@pytest.fixture(scope="module")
def fleet() -> SimulatedFleet:
    return simulate_fleet(PARAMS, SEED)


@pytest.fixture(scope="module")
def readings(fleet: SimulatedFleet) -> pd.DataFrame:
    return fleet.readings


def log_number(readings: pd.DataFrame) -> pd.Series:
    """Number of the telematics log of its battery for each reading."""
    begins = readings.groupby("battery_id")["time"].diff().dt.total_seconds().fillna(1e9) > 3600.0
    return begins.groupby(readings["battery_id"]).cumsum()


def test_tables_follow_the_contract(fleet: SimulatedFleet) -> None:
    readings, batteries, _ = fleet
    assert list(readings.columns) == names(READING_FIELDS)
    assert list(batteries.columns) == names(BATTERY_FIELDS)
    assert str(readings["time"].dtype) == "datetime64[us, UTC]"
    assert set(readings["battery_id"]) == set(batteries["battery_id"])
    assert not readings[list(READING_REQUIRED)].isna().any().any()
    for field in READING_FIELDS:
        if field.minimum is not None and field.maximum is not None:
            assert readings[field.name].between(field.minimum, field.maximum).all(), field.name
    assert not readings.duplicated(["battery_id", "time"]).any()
    assert readings.groupby("battery_id")["time"].is_monotonic_increasing.all()


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(fleet: SimulatedFleet, tmp_path: Path) -> None:
    runs = {"a": fleet, "b": simulate_fleet(PARAMS, SEED, workers=2)}
    for run, made in runs.items():
        write_fleet(made, tmp_path / run, tmp_path / run / "truth.parquet")
    for name in ("readings.parquet", "batteries.parquet", "truth.parquet"):
        digests = {hashlib.sha256((tmp_path / run / name).read_bytes()).hexdigest() for run in runs}
        assert len(digests) == 1, name


def test_a_battery_is_independent_of_the_fleet_size(readings: pd.DataFrame) -> None:
    alone = simulate_battery(PARAMS.model_copy(update={"batteries": 1}), SEED, 4)
    within = readings[readings["battery_id"] == alone.row["battery_id"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.readings, within)
    other = simulate_battery(PARAMS, SEED + 1, 4)
    assert not other.readings.equals(alone.readings)


def test_truth_has_the_state_at_the_end_of_each_log(fleet: SimulatedFleet) -> None:
    truth, logs = fleet.truth, log_number(fleet.readings)
    assert {name: str(kind) for name, kind in truth.dtypes.items()} == TRUTH_COLUMNS
    assert not (set(TRUTH_COLUMNS) - {"battery_id", "time", "soh"}) & set(fleet.readings.columns)
    last = fleet.readings.groupby(["battery_id", logs]).last().reset_index(names=["battery_id", "log"])
    assert last["battery_id"].tolist() == truth["battery_id"].tolist()
    # A log of readings ends at most one interval before its activity.
    behind = (truth["time"] - last["time"]).dt.total_seconds()
    assert behind.between(-0.001, PARAMS.sampling_s + 0.001).all()
    assert (truth["soh"] - last["soh"] / 100.0).abs().max() < 0.05
    assert (truth["cycles"] - last["charge_cycles"]).abs().max() < 1.0
    of_battery = truth.groupby("battery_id")
    for name in ("cycles", "cumulative_hazard", "severity"):
        assert (of_battery[name].diff().dropna() >= 0.0).all(), name
    assert (truth.loc[truth["fault"] == "", "severity"] == 0.0).all()
    assert (truth["has_failed"] == (truth["severity"] == 1.0)).all()
    assert truth["severity"].between(0.0, 1.0).all()
    ended = of_battery["has_failed"].transform("size") - of_battery.cumcount() == 1
    assert not truth.loc[~ended, "has_failed"].any()


def test_a_life_too_short_for_a_log_has_no_rows() -> None:
    life = simulate_battery(PARAMS.model_copy(update={"years_in_service": (0.001, 0.001)}), SEED, 0)
    assert len(life.readings) == len(life.truth) == 0
    assert list(life.readings.columns) == names(READING_FIELDS)
    assert str(life.readings["time"].dtype) == "datetime64[us, UTC]"


def test_random_streams_equal_those_of_seed_sequence_spawn() -> None:
    spawned = np.random.SeedSequence(SEED).spawn(9)[5].spawn(4)
    for stream, child in zip(random_streams(SEED, 5), spawned, strict=True):
        assert stream.random() == np.random.default_rng(child).random()


def test_health_falls_and_counters_rise(readings: pd.DataFrame) -> None:
    by_battery = readings.groupby("battery_id")
    assert (by_battery["soh"].diff().dropna() <= 0.0).all()
    assert (by_battery["charge_cycles"].diff().dropna() >= 0.0).all()
    assert (by_battery["odometer_km"].diff().dropna() >= 0.0).all()
    assert by_battery["soh"].first().between(95.0, 104.0).all()


def test_columns_are_consistent_in_sign_and_order(readings: pd.DataFrame) -> None:
    charging = readings["is_charging"] == 1.0
    assert (readings.loc[charging, "current"] <= 1.0).all()
    assert (readings.loc[charging, "speed_kmh"] == 0.0).all()
    driving = readings["speed_kmh"] > 5.0
    assert readings.loc[driving, "current"].mean() > 5.0
    assert (readings["cell_voltage_min"] <= readings["cell_voltage_median"]).all()
    assert (readings["cell_voltage_median"] <= readings["cell_voltage_max"]).all()
    assert (readings["temperature_min"] <= readings["temperature"]).all()
    power = readings["voltage"] * readings["current"]
    assert (power - readings["power_consumption"]).abs().max() <= 5.01
    # voltage falls with current; differences between neighbouring readings remove the slow fall of charge
    change = drive_changes(readings)
    in_log = change.groupby(["battery_id", "log"])
    assert in_log.apply(lambda drive: drive["voltage"].corr(drive["current"])).median() < -0.85


def drive_changes(readings: pd.DataFrame) -> pd.DataFrame:
    """Change of voltage and current between neighbouring driving readings, with battery, log, temperature and SoH."""
    driving = readings[readings["speed_kmh"] > 5.0].assign(log=log_number(readings))
    change = driving.groupby(["battery_id", "log"])[["voltage", "current"]].diff()
    return pd.concat([driving[["battery_id", "log", "temperature", "soh"]], change], axis=1).dropna()


def test_readings_are_quantised(readings: pd.DataFrame) -> None:
    steps = {"voltage": 0.1, "current": 0.1, "soc": 1.0, "temperature": 0.5, "power_consumption": 10.0}
    for name, step in steps.items():
        multiples = readings[name] / step
        assert (multiples - multiples.round()).abs().max() < 1e-6, name


def test_counted_soc_does_not_leak_soh(readings: pd.DataFrame) -> None:
    """Charge per percentage point of SoC corresponds to the nominal capacity at any wear."""
    charging = readings[readings["is_charging"] == 1.0]
    logs = charging.groupby([charging["battery_id"], log_number(readings)[charging.index]])
    seconds = logs["time"].diff().dt.total_seconds()
    moved_ah = (
        (-charging["current"] * seconds / 3600.0)
        .groupby([charging["battery_id"], log_number(readings)[charging.index]])
        .sum()
    )
    gained = (logs["soc"].last() - logs["soc"].first()) / 100.0
    # SoC has a resolution of 1 %, and the charge of the first 30 s is not seen: shorter charges tell too little.
    ratio = (moved_ah / gained)[gained > 0.4]
    nominal = nominal_capacities(ratio.index.get_level_values(0))
    health = logs["soh"].last()[ratio.index] / 100.0
    assert (ratio / nominal).between(0.96, 1.04).all()
    assert abs(np.corrcoef(ratio / nominal, health)[0, 1]) < 0.5


def nominal_capacities(battery_ids: pd.Index) -> np.ndarray:
    """Nominal capacity of each of `battery_ids`."""
    capacity = {
        f"EV-{i + 1:04d}": new_battery(
            PARAMS, SEED, i, datetime(2020, 1, 1, tzinfo=UTC)
        ).design.pack.nominal_capacity_ah
        for i in range(PARAMS.batteries)
    }
    return np.array([capacity[battery_id] for battery_id in battery_ids])


def test_no_reading_column_is_a_proxy_of_soh(readings: pd.DataFrame) -> None:
    others = readings.drop(columns=["battery_id", "time", "soh"])
    correlation = others.corrwith(readings["soh"]).abs().dropna()
    assert (correlation.drop(["charge_cycles", "odometer_km"]) < 0.6).all()
    assert (correlation < 0.97).all()


def test_resistance_rises_as_soh_falls(readings: pd.DataFrame) -> None:
    """Slope of voltage on current while driving, within batteries and beside the effect of temperature."""
    rows = []
    for (battery_id, _), drive in drive_changes(readings).groupby(["battery_id", "log"]):
        slope = -(drive["voltage"] * drive["current"]).sum() / (drive["current"] ** 2).sum()
        rows.append((battery_id, np.log(slope), drive["temperature"].mean(), drive["soh"].mean()))
    table = pd.DataFrame(rows, columns=["battery_id", "log_resistance", "temperature", "soh"])
    within = table.drop(columns="battery_id") - table.groupby("battery_id").transform("mean")
    temperature = within["temperature"]
    known = np.stack([temperature, temperature**2, within["soh"]], axis=1)
    by_temperature, _, by_soh = np.linalg.lstsq(known, within["log_resistance"], rcond=None)[0]
    assert by_temperature < -0.01, "per degC"
    assert by_soh < -0.01, "per percent of health"


def test_telemetry_ends_at_end_of_life_or_end_of_observation(readings: pd.DataFrame) -> None:
    last = readings.groupby("battery_id").last()
    end = pd.Timestamp(PARAMS.observation_end, tz="UTC")
    is_censored = (last["soh"] >= 80.0) & (last["warning_level"] < 3.0)
    assert (readings["time"] < end + timedelta(hours=4)).all()
    assert (last.loc[is_censored, "time"] > end - timedelta(days=365)).all()
    before_last_log = log_number(readings) < log_number(readings).groupby(readings["battery_id"]).transform("max")
    assert (readings.loc[before_last_log, "warning_level"] < 3.0).all()


def test_shares_of_ends_and_number_of_faults_match_the_hazard() -> None:
    """For 400 batteries without telemetry: shares of the kinds of end, and faults against accumulated hazard."""
    ends, accumulated, events = [], 0.0, 0
    until = PARAMS.observation_end_s
    for index in range(400):
        years = random_streams(SEED, index).entry.uniform(*PARAMS.years_in_service)
        since = datetime.fromtimestamp(until - years * 365.25 * 86_400.0, UTC)
        battery = new_battery(PARAMS, SEED, index, since)
        while battery.soh >= 0.8 and not battery.has_failed and battery.state.time_s < until:
            battery.advance_days(30.0)
        accumulated += battery.state.defect.cumulative_hazard
        events += battery.state.defect.kind != NO_FAULT
        ends.append("fault" if battery.has_failed else "worn" if battery.soh < 0.8 else "censored")
    share = pd.Series(ends).value_counts(normalize=True)
    assert 0.10 <= share["worn"] <= 0.30
    assert 0.05 <= share["fault"] <= 0.20
    assert abs(events - accumulated) < 4.0 * np.sqrt(accumulated)  # a martingale for any course of wear


@pytest.mark.parametrize("index", [0, 1, 4])  # LFP, NMC and NCA
def test_charging_stops_at_full_charge(index: int) -> None:
    battery = new_battery(PARAMS, SEED, index, datetime(2020, 1, 1, tzinfo=UTC))
    for _ in range(40):
        battery.log(PARAMS.sampling_s)
        assert battery.state.groups[:, SOC].max() < 1.001


def test_advance_days_is_independent_of_the_step_size() -> None:
    battery = new_battery(PARAMS, SEED, 1, datetime(2020, 1, 1, tzinfo=UTC))
    ends = []
    for parts in (1, 2, 60):
        state, rng = battery.state, np.random.default_rng(4)
        for part in range(parts):
            # A day with a long trip ends in the next one.
            days = (part + 1) * 60.0 / parts - (state.time_s - battery.state.time_s) / SECONDS_PER_DAY
            state = advance_days(state, battery.design, battery.overrides, days, rng)
        ends.append(state)
    for state in ends[1:]:
        np.testing.assert_allclose(state.ageing, ends[0].ageing)
        np.testing.assert_allclose(state.groups, ends[0].groups, atol=1e-9)
        assert state.discharged_ah == pytest.approx(ends[0].discharged_ah)


def test_a_shorter_observation_is_a_prefix_of_a_longer_one() -> None:
    since = datetime(2020, 1, 1, tzinfo=UTC)
    short, long = (
        simulate_history(
            new_battery(PARAMS, SEED, 2, since), PARAMS, (since + timedelta(days=days)).timestamp()
        ).readings
        for days in (300, 700)
    )
    assert 0 < len(short) < len(long)
    pd.testing.assert_frame_equal(short, long.iloc[: len(short)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batteries", 0),
        ("sampling_s", -1.0),
        ("ageing_spread", -0.1),
        ("retire_below_soh", 80.0),
        ("years_in_service", (3.0, 1.0)),
        ("observation_end", "soon"),
        ("colour", "red"),
    ],
)
def test_an_invalid_parameter_is_reported_with_field_and_value(name: str, value: object) -> None:
    with pytest.raises(TwinError, match=f"simulate.{name}") as caught:
        SimulateParams.of({"simulate": {name: value}})
    assert caught.value.field == f"simulate.{name}"
    assert caught.value.value == value


def test_parameters_from_yaml() -> None:
    assert SimulateParams.of({}) == SimulateParams()
    assert SimulateParams.of({"simulate": {"years_in_service": [1.0, 2.0]}}).years_in_service == (1.0, 2.0)
