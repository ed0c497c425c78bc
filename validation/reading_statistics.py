"""Statistics of a car's readings: resolution, noise, sampling, lost and repeated readings, current and temperature.

Measured in the same way on real and simulated cars, from the columns of the contract only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
#: A longer pause between two readings is taken as the car being off, not as lost readings.
LONGEST_LOSS_S = 600.0
MOVING_KMH = 5.0
CHARGING_A = -2.0
#: Change of current between readings up to which the load counts as steady.
STEADY_A = 0.5
#: Share of the second differences that is used for the noise: the largest are changes of the load.
QUIET_SHARE = 0.95
#: Equal readings of a sensor in a row, while the car moves, from which on it counts as stuck.
STUCK_READINGS = 5
TEMPERATURE_CHANGE_S = 300.0
SIGNALS = ("voltage", "current", "temperature", "soc", "cell_voltage_max")
#: Columns that all repeat in a frozen reading.
SNAPSHOT = ("voltage", "current", "temperature", "temperature_min", "cell_voltage_min", "cell_voltage_max", "speed_kmh")
#: Optional columns that a car sends always or not at all, apart from dropouts.
DROPPED = ("soc", "is_charging", "temperature_min", "cell_voltage_min", "cell_voltage_max", "odometer_km")


class Car(NamedTuple):
    """Readings of one car, and the capacity by which its currents are divided."""

    name: str
    readings: pd.DataFrame
    nominal_capacity_ah: float

    def statistics(self) -> dict[str, float]:
        """Its `statistics`."""
        return statistics(self.readings, self.nominal_capacity_ah)


class Sampling(NamedTuple):
    """Intervals of the readings of one car, s: the usual one, and float64[n] to each reading from the one before."""

    interval_s: float
    before_s: FloatArray


def sampling(readings: pd.DataFrame) -> Sampling:
    """Intervals of one car's readings in their order; the first is NaN."""
    before_s = readings["time"].diff().dt.total_seconds().to_numpy(dtype=np.float64)
    usual = before_s[before_s > 0.0]
    return Sampling(float(np.median(usual)) if len(usual) else float("nan"), before_s)


def statistics(readings: pd.DataFrame, nominal_capacity_ah: float) -> dict[str, float]:
    """Statistics of the readings of one car in their order; NaN where there is nothing to measure.

    Currents are in nominal capacities an hour (`..._c_rate`), positive while discharging.  Shares are of the readings
    to which they may happen.
    """
    one = readings.reset_index(drop=True)
    return {
        "readings": float(len(one)),
        **_resolution(one),
        **_noise(one),
        **_sampling_statistics(one),
        **_repeated(one),
        **_missing(one),
        **_currents(one, nominal_capacity_ah),
        **_temperatures(one),
    }


def runs(of: BoolArray) -> NDArray[np.int64]:
    """Lengths of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], of, [False]]).astype(np.int8)))
    return (edges[1::2] - edges[::2]).astype(np.int64)


def moving(readings: pd.DataFrame) -> BoolArray:
    """Readings at which the car and the one before moved."""
    fast = readings["speed_kmh"].to_numpy() > MOVING_KMH
    return np.asarray(fast & np.concatenate([[False], fast[:-1]]), dtype=np.bool_)


def charging(readings: pd.DataFrame) -> BoolArray:
    """Readings at which the standing car was charging."""
    return np.asarray((readings["current"] < CHARGING_A) & ~(readings["speed_kmh"] > 0.0), dtype=np.bool_)


def temperature_changes(readings: pd.DataFrame) -> FloatArray:
    """Changes of the hottest probe within five minutes, K, where the readings have no gap."""
    interval_s, before_s = sampling(readings)
    shift = max(round(TEMPERATURE_CHANGE_S / interval_s), 1)
    span_s = pd.Series(before_s).rolling(shift).sum().to_numpy()
    change = readings["temperature"].diff(shift).to_numpy(dtype=np.float64)
    return change[np.abs(span_s - shift * interval_s) <= interval_s]


def _next_to_usual(one: pd.DataFrame) -> BoolArray:
    interval_s, before_s = sampling(one)
    return np.asarray(np.abs(before_s - interval_s) <= 0.2 * interval_s, dtype=np.bool_)


def _resolution(one: pd.DataFrame) -> dict[str, float]:
    found = {}
    for name in SIGNALS:
        differences = np.diff(np.sort(one[name].dropna().unique()))
        found[f"{name}_step"] = round(float(np.median(differences)), 4) if len(differences) else float("nan")
    magnitude = one["current"].abs()
    found["current_smallest_a"] = float(magnitude[magnitude > 0.0].min())
    return found


def _noise(one: pd.DataFrame) -> dict[str, float]:
    """Root mean square noise from second differences at a steady load, while charging and at rest."""
    steady = (one["current"].diff().abs() <= STEADY_A).to_numpy() & _next_to_usual(one)
    steady[1:] &= steady[:-1]
    found = {}
    at_rest = (one["current"] == 0.0) & ~(one["speed_kmh"] > 0.0)
    for where, here in (("rest", at_rest.to_numpy()), ("charge", charging(one))):
        chosen = steady & here & np.roll(here, 1) & np.roll(here, 2)
        for name in ("voltage", "current", "cell_voltage_max", "temperature"):
            second = np.abs(one[name].diff().diff().to_numpy()[chosen])
            second = np.sort(second[~np.isnan(second)])[: int(QUIET_SHARE * chosen.sum())]
            found[f"{name}_noise_{where}"] = float(np.sqrt(np.mean(second**2) / 6.0)) if len(second) else float("nan")
    return found


def _sampling_statistics(one: pd.DataFrame) -> dict[str, float]:
    interval_s, before_s = sampling(one)
    known = before_s[1:]
    between = np.abs(known - interval_s)
    off = (between > 0.0) & (between <= 0.45 * interval_s)
    found = {
        "interval_s": interval_s,
        "off_interval_share": float(off.sum() / max((between <= 0.45 * interval_s).sum(), 1)),
        "off_interval_s": float(np.median(between[off])) if off.any() else 0.0,
        "duplicate_share": float(np.mean(known == 0.0)),
        "backward_share": float(np.mean(known < 0.0)),
        "burst_share": float(np.mean((known > 0.0) & (known < 0.45 * interval_s))),
    }
    moves = moving(one)
    loaded = ((one["current"] != 0.0) & ~(one["speed_kmh"] > 0.0)).to_numpy()
    stands = loaded & np.roll(loaded, 1) & (one["odometer_km"].diff() == 0.0).to_numpy()
    for where, here in (("moving", moves), ("standing", stands)):
        gaps = before_s[here & (before_s > 1.45 * interval_s) & (before_s < LONGEST_LOSS_S)]
        lost = np.round(gaps / interval_s) - 1.0
        found[f"loss_share_{where}"] = len(gaps) / max(int(here.sum()), 1)
        found[f"lost_in_a_row_{where}"] = float(lost.mean()) if len(lost) else 0.0
    return found


def _repeated(one: pd.DataFrame) -> dict[str, float]:
    moves = moving(one) & _next_to_usual(one)
    equal = {name: (one[name].diff() == 0.0).to_numpy() for name in SNAPSHOT}
    frozen = moves & np.logical_and.reduce(list(equal.values()))
    found = {"frozen_share": float(frozen.sum() / max(moves.sum(), 1))}
    lengths = runs(frozen)
    found["frozen_in_a_row"] = float(lengths.mean()) if len(lengths) else 0.0
    # A speed or temperature may well stay the same; the current of a moving car does not, while its speed changes.
    stuck = runs(moves & equal["current"] & ~equal["speed_kmh"] & (one["current"] != 0.0).to_numpy())
    found["stuck_share"] = float((stuck >= STUCK_READINGS).sum() / max(moves.sum(), 1))
    found["moving_readings"] = float(moves.sum())
    return found


def _missing(one: pd.DataFrame) -> dict[str, float]:
    lengths = [runs(absent) for name in DROPPED if not (absent := one[name].isna().to_numpy(dtype=np.bool_)).all()]
    all_runs = np.concatenate(lengths) if lengths else np.empty(0, dtype=np.int64)
    return {
        "dropout_share": float(len(all_runs) / max(len(one), 1)),
        "dropped_in_a_row": float(all_runs.mean()) if len(all_runs) else 0.0,
    }


def _quantiles(name: str, values: FloatArray) -> dict[str, float]:
    values = values[~np.isnan(values)]
    return {
        f"{name}_q{100 * share:g}": float(np.quantile(values, share)) if len(values) else float("nan")
        for share in QUANTILES
    }


def _currents(one: pd.DataFrame, nominal_capacity_ah: float) -> dict[str, float]:
    c_rate = one["current"].to_numpy(dtype=np.float64) / nominal_capacity_ah
    return {
        **_quantiles("driving_c_rate", c_rate[moving(one)]),
        **_quantiles("charging_c_rate", c_rate[charging(one)]),
    }


def _temperatures(one: pd.DataFrame) -> dict[str, float]:
    hottest = one["temperature"].to_numpy(dtype=np.float64)
    return {
        **_quantiles("temperature_c", hottest),
        **_quantiles("temperature_change_5min_k", temperature_changes(one)),
        **_quantiles("probe_spread_k", hottest - one["temperature_min"].to_numpy(dtype=np.float64)),
        **_quantiles("cell_spread_v", (one["cell_voltage_max"] - one["cell_voltage_min"]).to_numpy(dtype=np.float64)),
    }
