"""Laws by which a loss grows, each advanced from any loss by a further duration or throughput.

With constant rates a step in two halves equals the whole step, and a larger loss, rate or increment never leads to a
smaller loss.  BLAST-Lite takes one explicit Euler step of the same differential equations instead.
"""

from __future__ import annotations

import math

from physics.compiled import compiled

KELVIN_AT_0_C = 273.15
GAS_CONSTANT = 8.3144  # J/(mol K)
HALF_CHARGED_ANODE_V = 0.123


@compiled
def power_law(loss: float, increment: float, rate: float, exponent: float) -> float:
    """Loss after `increment` on the trajectory rate * x ** exponent, from the x at which it was `loss`."""
    if rate <= 0.0 or increment <= 0.0:
        return loss
    inverse = 1.0 / exponent
    advanced: float = (loss**inverse + rate**inverse * increment) ** exponent
    return max(loss, advanced)


@compiled
def sigmoid(loss: float, increment: float, limit: float, rate: float, exponent: float) -> float:
    """Loss after `increment` on the trajectory limit * tanh((rate * x) ** exponent / 2); none is added at the limit.

    tanh(z / 2) is the 2 * (1/2 - 1 / (1 + exp(z))) of Gasper et al. 2022 (doi:10.1149/1945-7111/ac86a8).
    """
    if increment <= 0.0 or loss >= limit:
        return loss
    reached = (2.0 * math.atanh(loss / limit)) ** (1.0 / exponent) + rate * increment
    return max(loss, limit * math.tanh(0.5 * reached**exponent))


@compiled
def anode_potential_v(soc: float) -> float:
    """Potential of a graphite anode against lithium, V, at the state of charge of the cell (0..1).

    Safari and Delacourt 2011 (doi:10.1149/1.3567007), with the lithiation of Schimpe et al. 2018
    (doi:10.1149/2.1181714jes) for every cell.
    """
    lithiation = 8.5e-3 + min(max(soc, 0.0), 1.0) * (0.78 - 8.5e-3)
    potential_v: float = (
        0.6379
        + 0.5416 * math.exp(-305.5309 * lithiation)
        + 0.044 * math.tanh(-(lithiation - 0.1958) / 0.1088)
        - 0.1978 * math.tanh((lithiation - 1.0571) / 0.0854)
        - 0.6875 * math.tanh((lithiation + 0.0117) / 0.0529)
        - 0.0175 * math.tanh((lithiation - 0.5692) / 0.0875)
    )
    return potential_v
