"""Tests physically that current is positive while discharging, since a wrong sign passes every range check.

Two independent correlations, each used only with enough samples: voltage sags under load (steps of voltage against
steps of current between consecutive readings), and the state of charge falls while charge flows out (over windows of
some minutes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telemetry.errors import TwinError

#: Readings further apart than this are not taken as consecutive.
MAX_STEP_S = 60.0
#: Length of the windows over which charge and state of charge are compared.
WINDOW_S = 900.0
#: A step of current is larger than this share of the largest current.
STEP_SHARE = 0.02
#: Least samples and least correlation for a verdict.
MIN_STEPS = 30
MIN_WINDOWS = 10
MIN_CORRELATION = 0.4

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SignVerdict:
    """Correlations of one battery; NaN where there are too few samples.

    In the contract's sign convention both are negative.
    """

    battery_id: str
    voltage_correlation: float
    soc_correlation: float

    @property
    def sign(self) -> int:
        """1: the contract's convention; -1: reversed; 0: no clear correlation, or the two disagree."""
        clear = [c for c in (self.voltage_correlation, self.soc_correlation) if abs(c) >= MIN_CORRELATION]
        if not clear or len({c < 0 for c in clear}) > 1:
            return 0
        return 1 if clear[0] < 0 else -1


def sign_verdicts(readings: pd.DataFrame) -> list[SignVerdict]:
    """One verdict for each battery; `readings` in contract columns and in time order within each battery."""
    return list(_verdicts(readings))


def check_signs(verdicts: list[SignVerdict]) -> list[str]:
    """Notes on batteries whose sign could not be tested.

    Raises:
        TwinError: where a battery's current has the wrong sign.
    """
    wrong = [v for v in verdicts if v.sign < 0]
    if wrong:
        names = ", ".join(v.battery_id for v in wrong[:5]) + (" and others" if len(wrong) > 5 else "")
        raise TwinError(
            f"current looks reversed for {names}: voltage rises or the state of charge grows while current is positive,"
            " but positive must mean discharging; set (or remove) `sign: -1` at the column that becomes `current`"
            " in the field map",
            field="current",
            value=names,
        )
    untested = [v.battery_id for v in verdicts if v.sign == 0]
    if not untested:
        return []
    shown = ", ".join(untested[:5]) + (", …" if len(untested) > 5 else "")
    return [f"the sign of current could not be tested for {len(untested)} of {len(verdicts)} batteries ({shown})"]


def _verdicts(readings: pd.DataFrame) -> Iterator[SignVerdict]:
    for battery_id, rows in readings.groupby("battery_id", sort=True):
        time = rows["time"].astype("int64").to_numpy(dtype="float64") / 1e6
        current = rows["current"].to_numpy(dtype="float64")
        voltage = rows["voltage"].to_numpy(dtype="float64")
        soc = rows["soc"].to_numpy(dtype="float64")
        yield SignVerdict(
            str(battery_id), voltage_correlation(time, current, voltage), soc_correlation(time, current, soc)
        )


def voltage_correlation(time: FloatArray, current: FloatArray, voltage: FloatArray) -> float:
    """Correlation through the origin of voltage steps with current steps, NaN below MIN_STEPS; shapes [n]."""
    if len(time) < 2:
        return float("nan")
    seconds, step, sag = np.diff(time), np.diff(current), np.diff(voltage)
    clear = (seconds > 0) & (seconds <= MAX_STEP_S) & (np.abs(step) > STEP_SHARE * np.abs(current).max())
    return _correlation(step[clear], sag[clear], MIN_STEPS)


def soc_correlation(time: FloatArray, current: FloatArray, soc: FloatArray) -> float:
    """Correlation through the origin of the change of SoC with the discharged charge, over windows; shapes [n]."""
    if len(time) < 2:
        return float("nan")
    seconds = np.diff(time)
    joined = (seconds > 0) & (seconds <= MAX_STEP_S)
    charge = np.where(joined, 0.5 * (current[1:] + current[:-1]) * seconds, 0.0)
    change = np.where(joined, np.diff(soc), 0.0)
    window = np.cumsum(~joined) * 1_000_000 + np.floor((time[1:] - time[0]) / WINDOW_S)
    _, group = np.unique(window, return_inverse=True)
    flowed, changed = np.bincount(group, charge), np.bincount(group, change)
    moved = np.isfinite(changed) & (changed != 0.0)
    return _correlation(flowed[moved], changed[moved], MIN_WINDOWS)


def _correlation(a: FloatArray, b: FloatArray, least: int) -> float:
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if len(a) >= least and scale > 0.0 else float("nan")
