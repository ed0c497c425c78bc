"""Ageing of a 3 Ah LFP-graphite cylindrical cell (Sony-Murata US26650FTC1).

Storage of Naumann et al. 2018 (doi:10.1016/j.est.2018.01.019), cycling and resistance of Naumann et al. 2020
(doi:10.1016/j.jpowsour.2019.227666) at 25 and 40 degC, capacity as identified by Gasper et al. 2022
(doi:10.1149/1945-7111/ac86a8).  Temperature does not change the loss by cycling.  The break-in above three full
cycles a day, which no car does, is left out.
"""

from __future__ import annotations

import math

from physics.ageing.state import Ageing, Rates, Stress
from physics.ageing.trajectories import GAS_CONSTANT, anode_potential_v, power_law, sigmoid
from physics.compiled import compiled

LIMIT, LIMIT_T2, LIMIT_T1 = 0.989687151293590, -2881067.56019324, 8742.06309157261
CALENDAR_RATE = 0.000130510034211874
EXPONENT, EXPONENT_T4, EXPONENT_T3 = 0.000332850281062177, 734553185711.369, -3284991315.45121
EXPONENT_CUBE, EXPONENT_SQUARE = -2.82161575620780e-06, 0.00127227593657290
CYCLING_BASE, CYCLING_SWING, CYCLING_C_RATE = -6.81260579372875e-06, 2.59615973160844e-05, 2.11559710307295e-06
CYCLING_EXPONENT = 1.12847759334355
MAX_C_RATE = 2.0  # the exponential in the cube of the C-rate holds up to the rates of the study
RESISTANCE_RATE, RESISTANCE_ACTIVATION, RESISTANCE_SOC, RESISTANCE_MID = 3.4194e-10, 71827.0, -3.3903, 1.5604
CYCLE_C_RATE, CYCLE_BASE, CYCLE_SWING, CYCLE_MID = -0.002, 0.0021, 6.8477, 0.91882
# The fitted growth for each cycle falls with the C-rate; beyond this rate more cycles a day would mean less growth.
RESISTANCE_MAX_C_RATE = CYCLE_BASE / (2.0 * -CYCLE_C_RATE)
SECONDS_PER_DAY = 86_400.0
REFERENCE_K = 298.15


@compiled
def rates(soc: float, temperature_k: float) -> Rates:
    """Limit and exponent of the calendar loss, and the factors of the calendar growth of resistance."""
    anode_v = anode_potential_v(soc)
    root = math.sqrt(anode_v) / temperature_k
    limit = LIMIT * math.exp(LIMIT_T2 * root / temperature_k + LIMIT_T1 * root)
    exponent = EXPONENT * math.exp(
        anode_v ** (1.0 / 3.0) * (EXPONENT_T4 / temperature_k**4 + EXPONENT_T3 / temperature_k**3)
        + anode_v**0.25 * (EXPONENT_CUBE * temperature_k**3 + EXPONENT_SQUARE * temperature_k**2)
    )
    resistance = RESISTANCE_RATE * math.exp(
        -RESISTANCE_ACTIVATION / GAS_CONSTANT * (1.0 / temperature_k - 1.0 / REFERENCE_K)
    )
    return Rates(limit, exponent, 1.0, resistance, RESISTANCE_SOC * (soc - 0.5) ** 3 + RESISTANCE_MID)


@compiled
def advance(before: Ageing, stress: Stress, swing: float, c_rate: float, speed: float) -> Ageing:
    """Losses after `stress`; no component falls."""
    days = stress.days
    calendar = sigmoid(
        before.calendar_loss, speed * days, stress.calendar / days, CALENDAR_RATE, stress.calendar_exponent / days
    )
    # The fit is negative for shallow cycles, and BLAST-Lite takes its magnitude, by which less use would age more.
    load = math.exp(swing**2 * min(c_rate, MAX_C_RATE) ** 3)
    rate = max(CYCLING_BASE + CYCLING_SWING * swing + CYCLING_C_RATE * load, 0.0)
    # Of the form (rate * x) ** exponent.
    cycling = power_law(before.cycling_loss, speed * stress.throughput, rate**CYCLING_EXPONENT, CYCLING_EXPONENT)
    growth = stress.resistance_temperature / days * stress.resistance_soc * SECONDS_PER_DAY
    per_cycle = (CYCLE_C_RATE * min(c_rate, RESISTANCE_MAX_C_RATE) + CYCLE_BASE) * (
        CYCLE_SWING * (swing - 0.5) ** 3 + CYCLE_MID
    )
    return Ageing(
        calendar,
        cycling,
        0.0,
        before.resistance_calendar + speed * growth,
        before.resistance_cycling + speed * per_cycle * stress.throughput / 100.0,
    )
