"""Ageing of a 3 Ah NCA-graphite cylindrical cell (Panasonic NCR18650B).

Fit by NREL to the storage of Keil et al. 2016 (doi:10.1149/2.0411609jes) and the cycling of Preger et al. 2020
(doi:10.1149/1945-7111/abae37) between 15 and 35 degC.  Temperature does not change the loss by cycling (the fitted
activation is nil), nor in effect does the C-rate.  Resistance was not modelled, see `resistance.py`.
"""

from __future__ import annotations

import math

from physics.ageing.resistance import RESISTANCE_PER_LOSS
from physics.ageing.state import Ageing, Rates, Stress
from physics.ageing.trajectories import power_law
from physics.compiled import compiled

CALENDAR_RATE, CALENDAR_TEMPERATURE_K, CALENDAR_SOC_K, CALENDAR_EXPONENT = 75.4, -3340.0, 353.0, 0.512
# Twice the published coefficients: they are multiplied by the sum of two Arrhenius factors that equal 1.
CYCLING_RATE, CYCLING_RATE_C, CYCLING_RATE_SWING, CYCLING_EXPONENT = 2 * 1.86e-6, 2 * 4.74e-11, 2 * 1.77e-4, 0.699


@compiled
def rates(soc: float, temperature_k: float) -> Rates:
    """Calendar rate."""
    calendar = CALENDAR_RATE * math.exp((CALENDAR_TEMPERATURE_K + CALENDAR_SOC_K * soc) / temperature_k)
    return Rates(calendar, 1.0, 1.0, 1.0, 1.0)


@compiled
def advance(before: Ageing, stress: Stress, swing: float, c_rate: float, speed: float) -> Ageing:
    """Losses after `stress`; no component falls."""
    calendar = power_law(before.calendar_loss, speed * stress.days, stress.calendar / stress.days, CALENDAR_EXPONENT)
    rate = CYCLING_RATE + CYCLING_RATE_C * c_rate + CYCLING_RATE_SWING * swing
    cycling = power_law(before.cycling_loss, speed * stress.throughput, rate, CYCLING_EXPONENT)
    return Ageing(calendar, cycling, 0.0, RESISTANCE_PER_LOSS * calendar, RESISTANCE_PER_LOSS * cycling)
