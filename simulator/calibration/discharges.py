"""Measured discharges of one battery, cut from the readings of any source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telemetry.chemistries import DEFAULT_CHEMISTRY
from telemetry.errors import TwinError
from telemetry.sources import Telemetry

FloatArray = NDArray[np.float64]

#: A longer interval without a reading ends a discharge.
LONGEST_GAP_S = 600.0
#: Currents below this share of the nominal capacity in one hour (C-rate) are rest.
REST_C_RATE = 0.02
#: A discharge has at least so many readings under load.
FEWEST_READINGS = 10
#: A discharge that starts lower than the median by this much did not begin with a full cell.
FULL_WITHIN_V = 0.1


@dataclass(frozen=True)
class Discharge:
    """One discharge of a full cell with the rest around it, as measured; arrays are float64[n].

    Attributes:
        number: from 1, in order of time, among the discharges of the battery.
        start: time of the first reading.
        rest_h: hours since the first reading of the discharge before; 0 for the first.
        ambient_c: reported ambient temperature, else the first temperature.
        loaded: bool[n], from the first reading under load to the last one before the load was cut off.
    """

    number: int
    start: pd.Timestamp
    rest_h: float
    time_s: FloatArray
    current_a: FloatArray
    voltage_v: FloatArray
    temperature_c: FloatArray
    ambient_c: float
    loaded: NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """The discharges of one battery, per cell in series, with its nominal data and notes on what was left out."""

    battery_id: str
    nominal_capacity_ah: float
    chemistry: str
    discharges: list[Discharge]
    notes: list[str]


def discharges_of(telemetry: Telemetry, battery_id: str) -> Measured:
    """The discharges of `battery_id`; voltages are divided by the number of cells in series.

    Raises:
        TwinError: the battery is unknown, has no readings, no nominal capacity or no discharge.
    """
    known = sorted(telemetry.batteries["battery_id"])
    with_readings = sorted(telemetry.readings["battery_id"].dropna().unique())
    if battery_id not in known:
        raise TwinError(
            f"there is no battery {battery_id!r} in this source; it has {_listed(with_readings or known)}",
            field="battery",
            value=battery_id,
        )
    if battery_id not in with_readings:
        raise TwinError(
            f"battery {battery_id} has no readings of voltage, current and temperature, only cycle summaries;"
            f" name one of {_listed(with_readings)}"
            if with_readings
            else "this source has cycle summaries only, but calibration needs readings of voltage and current",
            field="battery",
            value=battery_id,
        )
    described = telemetry.batteries[telemetry.batteries["battery_id"] == battery_id].iloc[0]
    capacity_ah = float(described["nominal_capacity_ah"])
    if not capacity_ah > 0:
        raise TwinError(
            f"the nominal capacity of {battery_id} is unknown; give it with --nominal-capacity-ah",
            field="nominal_capacity_ah",
        )
    series = described["cells_in_series"]
    readings = telemetry.readings[telemetry.readings["battery_id"] == battery_id].dropna(
        subset=["time", "voltage", "current", "temperature"]
    )
    discharges, notes = _cut(
        readings.sort_values("time").drop_duplicates("time"), capacity_ah, float(series) if series > 0 else 1.0
    )
    if not discharges:
        raise TwinError(
            f"the readings of {battery_id} contain no discharge of a full cell with at least {FEWEST_READINGS} readings"
            " under load (positive current = discharging); check the sign of current in the field map",
            field="current",
        )
    chemistry = described["chemistry"]
    return Measured(
        battery_id, capacity_ah, DEFAULT_CHEMISTRY if pd.isna(chemistry) else str(chemistry), discharges, notes
    )


def _cut(readings: pd.DataFrame, capacity_ah: float, series: float) -> tuple[list[Discharge], list[str]]:
    seconds = readings["time"].astype("datetime64[us, UTC]").astype("int64").to_numpy() / 1e6
    current_a = readings["current"].to_numpy(np.float64)
    charging = current_a < -REST_C_RATE * capacity_ah
    voltage_v = readings["voltage"].to_numpy(np.float64) / series
    temperature_c = readings["temperature"].to_numpy(np.float64)
    ambient_c = readings["ambient_temperature"].to_numpy(np.float64)
    ends = np.flatnonzero((np.diff(seconds) > LONGEST_GAP_S) | (np.diff(charging.astype(np.int8)) != 0)) + 1
    candidates: list[Discharge] = []
    for part in np.split(np.arange(len(seconds)), ends):
        under_load = np.flatnonzero(current_a[part] > REST_C_RATE * capacity_ah)
        if charging[part[0]] or len(under_load) < FEWEST_READINGS:
            continue
        loaded = np.zeros(len(part), dtype=np.bool_)
        loaded[under_load[0] : under_load[-1] + 1] = True
        rest = np.abs(current_a[part]) < REST_C_RATE * capacity_ah
        start = readings["time"].iloc[part[0]]
        candidates.append(
            Discharge(
                number=len(candidates) + 1,
                start=start,
                rest_h=(start - candidates[-1].start).total_seconds() / 3600.0 if candidates else 0.0,
                time_s=seconds[part] - seconds[part[0]],
                # Offsets of the current sensor at rest are not a load.
                current_a=np.where(rest, 0.0, current_a[part]),
                voltage_v=voltage_v[part],
                temperature_c=temperature_c[part],
                ambient_c=float(ambient_c[part[0]] if np.isfinite(ambient_c[part[0]]) else temperature_c[part[0]]),
                loaded=loaded,
            )
        )
    first_v = np.array([one.voltage_v[0] for one in candidates])
    full = first_v > np.median(first_v) - FULL_WITHIN_V if candidates else first_v > 0
    kept = [one for one, is_full in zip(candidates, full, strict=True) if is_full]
    left_out = [str(one.number) for one, is_full in zip(candidates, full, strict=True) if not is_full]
    notes = [f"discharges that did not begin with a full cell were left out: {', '.join(left_out)}"] if left_out else []
    return kept, notes


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"
