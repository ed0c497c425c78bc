"""Semi-empirical ageing model: calendar and cycle loss of capacity, a knee in some cells, growth of resistance.

Cycle loss is proportional to throughput ** 0.55 (Wang et al. 2011, doi:10.1016/j.jpowsour.2010.11.134), rising
with depth of discharge (Schmalstieg et al. 2014, doi:10.1016/j.jpowsour.2014.02.012), calendar loss with the square
root of time, Arrhenius in temperature and rising with charge (Smith et al. 2017, NREL,
doi:10.23919/ACC.2017.7963578).  Some cells have a knee (Attia et al. 2022, doi:10.1149/1945-7111/ac6d13): once the
loss exceeds an onset, a part of it grows exponentially. Magnitudes are chosen for lifetimes of 600 to 1500 equivalent
full cycles, not fitted to a cell.  Every law is applied as an increment, so that stress may change at any time and
wear never decreases.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from physics.compiled import compiled
from simulator.cell import KELVIN_AT_0_C, REFERENCE_K

CYCLE_EXPONENT = 0.55
DAYS_PER_YEAR = 365.25
NO_KNEE = 10.0  # an onset that no loss reaches
KNEE_SEED = 0.002


class AgeingParameters(NamedTuple):
    """Ageing constants of one battery.

    `calendar_per_root_year` and `cycle_per_cycle` are losses of capacity (fractions) at 25 degC and reference stress
    after a year and after one equivalent full cycle; the `resistance_` numbers are relative growth for each unit of
    capacity lost and for each equivalent full cycle.
    """

    calendar_per_root_year: float
    calendar_activation_k: float
    cycle_per_cycle: float
    cycle_activation_k: float
    knee_onset: float
    knee_cycles: float
    resistance_per_loss: float
    resistance_per_cycle: float


class Wear(NamedTuple):
    """Accumulated losses, all as fractions of the new value."""

    calendar_loss: float
    cycle_loss: float
    knee_loss: float
    resistance_growth: float


class Stress(NamedTuple):
    """Stress factors of ageing: temperature, mean state of charge, depth of discharge and C-rate."""

    temperature_c: float
    soc: float
    depth_of_discharge: float
    c_rate: float


NEW = Wear(0.0, 0.0, 0.0, 0.0)


@compiled
def capacity_loss(wear: Wear) -> float:
    """Lost capacity as a fraction of the new capacity."""
    return wear.calendar_loss + wear.cycle_loss + wear.knee_loss


@compiled
def arrhenius(temperature_c: float, activation_k: float) -> float:
    """Arrhenius factor: reaction rate relative to 25 degC."""
    return math.exp(activation_k * (1.0 / REFERENCE_K - 1.0 / (temperature_c + KELVIN_AT_0_C)))


@compiled
def calendar_stress(stress: Stress, activation_k: float) -> float:
    """Factor on calendar loss; 1 at 25 degC and half charge."""
    return arrhenius(stress.temperature_c, activation_k) * (1.0 + 0.9 * (stress.soc - 0.5))


@compiled
def cycle_stress(stress: Stress, activation_k: float) -> float:
    """Factor on cycle loss; 1 at 25 degC, depth 0.6, C/3.

    Below 10 degC lithium plating adds to the loss (Waldmann et al. 2014, doi:10.1016/j.jpowsour.2014.03.112).
    """
    depth = 0.7 + 0.5 * stress.depth_of_discharge
    rate = 1.0 + 0.25 * (stress.c_rate - 1.0 / 3.0)
    plating = 1.0 + max(10.0 - stress.temperature_c, 0.0) * 0.012
    return arrhenius(stress.temperature_c, activation_k) * depth * max(rate, 0.5) * plating


@compiled
def age(wear: Wear, parameters: AgeingParameters, stress: Stress, days: float, cycles: float) -> Wear:
    """Wear after `days` and `cycles` equivalent full cycles of constant stress; no component decreases."""
    calendar = parameters.calendar_per_root_year * calendar_stress(stress, parameters.calendar_activation_k)
    calendar_loss = math.sqrt(wear.calendar_loss**2 + calendar**2 * days / DAYS_PER_YEAR)
    calendar_loss = max(calendar_loss, wear.calendar_loss)

    inverse = 1.0 / CYCLE_EXPONENT
    cycle = parameters.cycle_per_cycle * cycle_stress(stress, parameters.cycle_activation_k)
    cycle_loss = (wear.cycle_loss**inverse + cycle**inverse * cycles) ** CYCLE_EXPONENT
    cycle_loss = max(cycle_loss, wear.cycle_loss)

    knee_loss = wear.knee_loss
    if calendar_loss + cycle_loss > parameters.knee_onset:
        knee_loss = (knee_loss + KNEE_SEED) * math.exp(cycles / parameters.knee_cycles) - KNEE_SEED

    lost = calendar_loss + cycle_loss + knee_loss - capacity_loss(wear)
    growth = parameters.resistance_per_loss * max(lost, 0.0) + parameters.resistance_per_cycle * cycles
    return Wear(calendar_loss, cycle_loss, knee_loss, wear.resistance_growth + growth)
