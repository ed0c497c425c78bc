"""Ageing of a 75 Ah NMC-graphite pouch cell (Kokam), with a knee.

Smith et al. 2017 (doi:10.23919/ACC.2017.7963578), between 0 and 55 degC; the C-rate was not varied.  Loss of lithium
competes with loss of active material, which begins late, grows fast and sets in earlier in the cold.  Its calendar
growth of resistance follows time to the power 1.25, fitted to about a year: it triples the resistance in ten.
"""

from __future__ import annotations

import math

from physics.ageing.state import Ageing, Rates, Stress
from physics.ageing.trajectories import HALF_CHARGED_ANODE_V, KELVIN_AT_0_C, anode_potential_v, power_law, sigmoid
from physics.compiled import compiled

REFERENCE_K = KELVIN_AT_0_C + 35.0
CALENDAR_RATE, CALENDAR_TEMPERATURE, CALENDAR_ANODE, CALENDAR_EXPONENT = 2.66e7, -17.8, -5.21, 0.357
CYCLING_RATE, CYCLING_TEMPERATURE, CYCLING_SWING, CYCLING_EXPONENT = 3.80e3, -18.4, 1.04, 0.778
MATERIAL_CYCLES, MATERIAL_SLOPE, MATERIAL_TEMPERATURE_C, MATERIAL_SOC = 1e4, 153.0, 55.0, 0.6
MATERIAL_EXPONENT = 10.0
# The linear fit turns negative for deep cycles at high charge in the frost.
MATERIAL_MIN_CYCLES = 1e3
RESISTANCE_CALENDAR, RESISTANCE_CALENDAR_EXPONENT = 0.0570, 1.25
RESISTANCE_CYCLING, RESISTANCE_CYCLING_EXPONENT = 4.87, 0.712
#: Active material that is lost when new; the trajectory cannot leave 0.
NEW_MATERIAL_LOSS = 1e-8


@compiled
def rates(soc: float, temperature_k: float) -> Rates:
    """Calendar rate and the temperature factor of cycling."""
    inverse = REFERENCE_K / temperature_k
    anode = anode_potential_v(soc) / HALF_CHARGED_ANODE_V
    calendar = CALENDAR_RATE * math.exp((CALENDAR_TEMPERATURE + CALENDAR_ANODE * anode) * inverse)
    return Rates(calendar, 1.0, math.exp(CYCLING_TEMPERATURE * inverse), 1.0, 1.0)


@compiled
def advance(before: Ageing, stress: Stress, swing: float, c_rate: float, speed: float) -> Ageing:
    """Losses after `stress`; no component falls."""
    days, cycles = speed * stress.days, speed * stress.throughput
    calendar_rate = stress.calendar / stress.days
    cycling_rate = CYCLING_RATE * math.exp(CYCLING_SWING * math.exp(swing**2)) * stress.cycling / stress.days
    colder_c = max(MATERIAL_TEMPERATURE_C - stress.temperature_c / stress.days, 0.0)
    life = MATERIAL_CYCLES - MATERIAL_SLOPE * colder_c * swing * stress.soc / stress.days / MATERIAL_SOC
    return Ageing(
        power_law(before.calendar_loss, days, calendar_rate, CALENDAR_EXPONENT),
        power_law(before.cycling_loss, cycles, cycling_rate, CYCLING_EXPONENT),
        sigmoid(before.material_loss, cycles, 1.0, 1.0 / max(life, MATERIAL_MIN_CYCLES), MATERIAL_EXPONENT),
        power_law(before.resistance_calendar, days, RESISTANCE_CALENDAR * calendar_rate, RESISTANCE_CALENDAR_EXPONENT),
        power_law(before.resistance_cycling, cycles, RESISTANCE_CYCLING * cycling_rate, RESISTANCE_CYCLING_EXPONENT),
    )
