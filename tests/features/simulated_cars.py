"""Simulated cars for the tests of the filter: days of commuting, rest and charging with the cell model of `physics`."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from features import state as s
from features import step
from physics.cell import (
    CellParameters,
    FloatArray,
    Wear,
    resting,
    terminal_voltage_v,
)
from physics.compiled import compiled
from physics.heated_cell import HeatedCell, Surroundings, step_heated
from physics.parameters import cell_parameters, stored, thermal_parameters
from physics.thermal import ThermalParameters, ThermalState
from simulator.vehicle_power import drives, vehicles

START_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z
DAY_S = 86_400
CELLS_IN_SERIES, NOMINAL_CAPACITY_AH = 96, 60.0
TIME_STEP_S = 0.5
AC_C_RATE, CUT_OFF_C_RATE = 0.13, 0.03


class Day(NamedTuple):
    """The truth of a car, every `TIME_STEP_S`: float64[n] each; current as C-rate, voltage of a cell."""

    soc: FloatArray
    c_rate: FloatArray
    voltage_v: FloatArray
    temperature_c: FloatArray


def _demand_w_per_wh(days: int) -> FloatArray:
    """Power demand over the energy of a new battery: UDDS and HWFET to work at 7 h, and both twice back at 17 h."""
    energy_wh = 1000.0 * vehicles()["leaf"].battery_kwh
    table = drives()
    trip = np.concatenate([table["leaf", cycle].power_w for cycle in ("udds", "hwfet")]) / energy_wh
    demand = np.zeros(DAY_S)
    demand[7 * 3600 :][: trip.size] = trip
    demand[17 * 3600 :][: 2 * trip.size] = np.tile(trip, 2)
    return np.tile(np.repeat(demand, round(1.0 / TIME_STEP_S)), days)


@compiled
def _live(
    state: HeatedCell,
    cell: CellParameters,
    thermal: ThermalParameters,
    wear: Wear,
    demand: FloatArray,
    plugged_in: FloatArray,
    out: FloatArray,
) -> None:
    """Charge with a constant current, then a constant voltage, from when `plugged_in` is 1 until full."""
    around = Surroundings(15.0, 15.0, 0.0)
    nominal_wh = cell.capacity_ah * 3.6
    voltage_v, is_full = 3.6, False
    current_a = 0.0
    for k in range(demand.size):
        if plugged_in[k] == 0.0:
            is_full = False
        if demand[k] != 0.0:
            current_a = demand[k] * nominal_wh / voltage_v
        elif plugged_in[k] > 0.0 and not is_full:
            current_a = -AC_C_RATE * cell.capacity_ah
            if terminal_voltage_v(state.cell, cell, wear, current_a, state.thermal.core_c) > cell.voltage_max_v:
                low, high = current_a, 0.0
                for _ in range(20):
                    current_a = 0.5 * (low + high)
                    if terminal_voltage_v(state.cell, cell, wear, current_a, state.thermal.core_c) > cell.voltage_max_v:
                        low = current_a
                    else:
                        high = current_a
                is_full = -current_a < CUT_OFF_C_RATE * cell.capacity_ah
        else:
            current_a = 0.0
        state, output = step_heated(state, cell, thermal, wear, current_a, around, TIME_STEP_S)
        voltage_v = output.voltage_v
        out[k, 0], out[k, 1], out[k, 2] = state.cell.soc, current_a / cell.capacity_ah, voltage_v
        out[k, 3] = state.thermal.core_c


@cache
def car(chemistry: str, *, capacity: float = 1.0, resistance: float = 1.0, days: int = 2, soc: float = 0.8) -> Day:
    """Days of a car, new or aged, that is charged fully from 19 h on; it begins at rest at midnight."""
    content = stored(chemistry)
    cell = cell_parameters(content)
    demand = _demand_w_per_wh(days)
    plugged_in = np.tile(np.repeat((np.arange(DAY_S) >= 19 * 3600).astype(float), round(1.0 / TIME_STEP_S)), days)
    out = np.empty((demand.size, 4))
    start = HeatedCell(resting(soc), ThermalState(15.0, 15.0))
    wear = Wear(cell.capacity_ah * capacity, resistance)
    _live(start, cell, thermal_parameters(content), wear, demand, plugged_in, out)
    return Day(*out.T)


def quantised(values: FloatArray, step: float) -> FloatArray:
    return np.round(values / step) * step


def measured(day: Day, every_s: float, seed: int = 0, gain: float = 1.005, offset_a: float = 0.1) -> FloatArray:
    """Readings of the car's pack in the order of `READING_INPUTS`, without a state of charge.

    The current has the given errors, the others have those of `simulator.sensors`.
    """
    rng = np.random.default_rng(seed)
    rows = slice(None, None, round(every_s / TIME_STEP_S))
    n = day.soc[rows].size
    matrix = np.full((n, len(s.READING_INPUTS)), np.nan)
    matrix[:, 0] = START_S + every_s * np.arange(n)
    voltage = day.voltage_v[rows] * CELLS_IN_SERIES * (1.0 + 0.0005 * rng.standard_normal())
    matrix[:, 1] = quantised(voltage + 0.04 * rng.standard_normal(n), 0.1)
    current = day.c_rate[rows] * NOMINAL_CAPACITY_AH * gain + offset_a
    matrix[:, 2] = quantised(current + 0.05 * rng.standard_normal(n), 0.1)
    matrix[:, 3] = quantised(day.temperature_c[rows] + 0.4 * rng.standard_normal() + 0.05 * rng.standard_normal(n), 1.0)
    return matrix


def new_states(chemistry: str, parameters: str | None = None) -> FloatArray:
    """State of a car's pack, float64[1, STATE_SIZE]; its filter is on if `parameters` are given."""
    states = s.new_states(1)
    s.set_battery(
        states[0],
        nominal_capacity_ah=NOMINAL_CAPACITY_AH,
        cells_in_series=CELLS_IN_SERIES,
        chemistry=chemistry,
        cell_parameters=parameters,
    )
    return states


@njit
def _follow(state, readings, slots, out):  # type: ignore[no-untyped-def]
    closed = np.empty(step.CLOSED_SIZE)
    for i in range(len(readings)):
        step.step_reading(state, readings[i], closed)
        for j in range(len(slots)):
            out[i, j] = state[slots[j]]


def followed(states: FloatArray, readings: FloatArray, *slots: int) -> FloatArray:
    """Update the state by readings; the values of `slots` after each, float64[n, len(slots)]."""
    out = np.empty((len(readings), len(slots)))
    _follow(states[0], readings, np.array(slots, dtype=np.int64), out)
    return out
