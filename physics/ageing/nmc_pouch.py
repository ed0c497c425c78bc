"""Ageing of a 50 Ah NMC-graphite pouch cell made for electric cars (cell 'NMC-Gr B1').

Gasper et al. 2023 (doi:10.1016/j.est.2023.109042); aged between 10 and 45 degC at up to 1.75C.  It was not seen to
have a knee.  The study publishes no resistance, see `resistance.py`.
"""

from __future__ import annotations

import math

from physics.ageing.resistance import RESISTANCE_PER_LOSS
from physics.ageing.state import Ageing, Rates, Stress
from physics.ageing.trajectories import HALF_CHARGED_ANODE_V, KELVIN_AT_0_C, anode_potential_v, power_law
from physics.compiled import compiled

REFERENCE_K = KELVIN_AT_0_C + 35.0
CALENDAR_RATE, CALENDAR_STRESS, CALENDAR_EXPONENT = 36.2, -4.4, 0.708
CYCLING_RATE, CYCLING_STRESS_EXPONENT, CYCLING_EXPONENT = 0.844, 0.458, 0.467
# The rates hold for time in 10,000 days and throughput in 100,000 equivalent full cycles.
DAYS, CYCLES = 1e4, 1e5


@compiled
def rates(soc: float, temperature_k: float) -> Rates:
    """Calendar rate and the temperature factor of cycling."""
    relative = temperature_k / REFERENCE_K
    anode = anode_potential_v(soc) / HALF_CHARGED_ANODE_V
    calendar = CALENDAR_RATE * math.exp(CALENDAR_STRESS / relative**3 * anode ** (1.0 / 3.0))
    return Rates(calendar, 1.0, relative ** (3.0 * CYCLING_STRESS_EXPONENT), 1.0, 1.0)


@compiled
def advance(before: Ageing, stress: Stress, swing: float, c_rate: float, speed: float) -> Ageing:
    """Losses after `stress`; no component falls."""
    calendar = power_law(
        before.calendar_loss, speed * stress.days / DAYS, stress.calendar / stress.days, CALENDAR_EXPONENT
    )
    load = (swing**2 * math.sqrt(c_rate)) ** CYCLING_STRESS_EXPONENT
    cycling = power_law(
        before.cycling_loss,
        speed * stress.throughput / CYCLES,
        CYCLING_RATE * load * stress.cycling / stress.days,
        CYCLING_EXPONENT,
    )
    return Ageing(calendar, cycling, 0.0, RESISTANCE_PER_LOSS * calendar, RESISTANCE_PER_LOSS * cycling)
