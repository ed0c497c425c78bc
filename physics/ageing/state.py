"""What ageing keeps of a cell: its losses so far, and the stress since they were last updated.

All are tuples of floats, so that compiled code passes them by value; arrays of them have a column for each field, in
order.
"""

from __future__ import annotations

from typing import NamedTuple


class Ageing(NamedTuple):
    """Losses of a cell so far, each as a fraction of the new value.

    `calendar_loss` and `cycling_loss` of lithium add up; `material_loss` is that of active material, which limits the
    capacity once it is the larger one (the knee).  The `resistance_` fields are growth, 0 when new.
    """

    calendar_loss: float
    cycling_loss: float
    material_loss: float
    resistance_calendar: float
    resistance_cycling: float


class Rates(NamedTuple):
    """Factors of a model that follow temperature and state of charge from moment to moment; 1 where it has none."""

    calendar: float
    calendar_exponent: float
    cycling: float
    resistance_temperature: float
    resistance_soc: float


class Stress(NamedTuple):
    """Stress since the last update: duration in days, throughput in equivalent full cycles of the new capacity, range
    of the state of charge, and integrals over the days of temperature (degC), state of charge and each of `Rates`.
    """

    days: float
    throughput: float
    soc_low: float
    soc_high: float
    temperature_c: float
    soc: float
    calendar: float
    calendar_exponent: float
    cycling: float
    resistance_temperature: float
    resistance_soc: float
