"""Features hardly depend on the sampling interval: 0.5, 10 and 30 s agree within tolerances."""

from __future__ import annotations

import numpy as np
import pytest
from conftest_features import drive

from features import state as s
from features import state_update

#: Largest difference from the features at 0.5 s, in each feature's unit, at 30 s sampling of a drive whose
#: current reverses within a minute.
TOLERANCES = {
    "temperature_change_c": 0.1,
    "c_rate_mean": 0.04,
    "c_rate_square_mean": 0.02,
    "cell_voltage_change_v": 0.005,
    "session_capacities": 0.01,
    "session_temperature_rise_c": 0.3,
    "session_age_s": 60.0,
    "resistance_at_1c_v": 0.02,
}


def updates(every_s: float) -> tuple[np.ndarray, state_update.ReadingUpdates]:
    readings = drive(np.arange(0.0, 10_801.0, every_s), seed=5)
    states = s.new_states(1)
    s.set_battery(states[0], nominal_capacity_ah=100.0, cells_in_series=96, chemistry="NMC")
    matrix = state_update.readings_matrix(readings)
    return matrix[:, 0], state_update.update_from_readings(states, np.zeros(len(matrix), dtype=np.int64), matrix)


@pytest.fixture(scope="module")
def finest() -> tuple[np.ndarray, state_update.ReadingUpdates]:
    return updates(0.5)


@pytest.mark.parametrize("every_s", [10.0, 30.0])
def test_reading_features_agree_across_sampling_intervals(
    finest: tuple[np.ndarray, state_update.ReadingUpdates], every_s: float
) -> None:
    times, result = updates(every_s)
    at = np.searchsorted(finest[0], times)
    # Right after the start or end of a session the rates may disagree about whether it is open.
    same_session = (
        result.features[:, state_update.READING_FEATURES.index("session_direction")]
        == (finest[1].features[at, state_update.READING_FEATURES.index("session_direction")])
    )
    assert same_session.mean() > 0.97
    comparable = same_session & (times > times[0] + 300.0)
    for stem, tolerance in TOLERANCES.items():
        for column, name in enumerate(state_update.READING_FEATURES):
            if name.startswith(stem):
                difference = np.abs(result.features[comparable, column] - finest[1].features[at[comparable], column])
                assert np.nanmax(difference, initial=0.0) <= tolerance, name


@pytest.mark.parametrize("every_s", [10.0, 30.0])
def test_session_summaries_agree_across_sampling_intervals(
    finest: tuple[np.ndarray, state_update.ReadingUpdates], every_s: float
) -> None:
    reference, table = finest[1].closed_table(), updates(every_s)[1].closed_table()
    assert table["kind"].tolist() == reference["kind"].tolist()
    assert table["throughput_ah"].to_numpy() == pytest.approx(reference["throughput_ah"].to_numpy(), rel=0.02)
    for name in ("discharge_voltage_mean_v", "temperature_mean_c", "cell_voltage_spread_v"):
        assert table[name].to_numpy() == pytest.approx(reference[name].to_numpy(), rel=0.01, nan_ok=True), name
    assert table["resistance_ohm"].to_numpy() == pytest.approx(
        reference["resistance_ohm"].to_numpy(), rel=0.1, nan_ok=True
    )


def test_sample_weighted_mean_does_not_agree() -> None:
    """Negative control: with uneven sampling a mean by sample differs from a mean by time."""
    dense, sparse = np.arange(0.0, 1800.0, 0.5), np.arange(1800.0, 3600.0, 30.0)
    readings = drive(np.concatenate([dense, sparse]), seed=5)
    even = drive(np.arange(0.0, 3600.0, 30.0), seed=5)
    by_sample = readings["temperature"].mean() - even["temperature"].mean()
    seconds = readings["time"].astype("int64").to_numpy() / 1e6
    by_time = np.trapezoid(readings["temperature"], seconds) / np.ptp(seconds) - even["temperature"].mean()
    assert abs(by_time) < 0.05 < abs(by_sample)
