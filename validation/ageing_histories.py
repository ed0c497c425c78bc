"""Ten-year histories of state of charge and battery temperature on which ageing models are compared.

Only numpy and no random numbers, so that the isolated environment of BLAST-Lite (`validation.blast_lite`) builds the
same histories as the project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

YEARS = 10
DAYS = 365 * YEARS
STEP_S = 600
STEPS_PER_DAY = 86_400 // STEP_S
#: First-order lag of a pack behind the air, and its rise by an hour of 1C.
THERMAL_LAG_H = 4.0
WARMING_C_PER_H_OF_1C = 12.0


class History(NamedTuple):
    """State of charge (fraction of the present capacity) and temperature of one battery, each of shape (samples,)."""

    time_s: NDArray[np.float64]
    soc: NDArray[np.float64]
    temperature_c: NDArray[np.float64]


class Climate(NamedTuple):
    """Air temperature: annual mean and amplitudes over the year (warmest on day 200) and the day (at 15 h), degC."""

    mean_c: float
    year_c: float
    day_c: float


class Use(NamedTuple):
    """A climate, and what a day of a number and SoC does: (hour, change of the SoC, hours that it takes)."""

    climate: Climate
    day: Callable[[int, float], Iterator[tuple[float, float, float]]]
    soc: float = 0.8


# Near the climate normals of Paris, Phoenix and Oslo.
TEMPERATE, HOT, COLD = Climate(11.5, 8.0, 4.0), Climate(24.0, 10.5, 7.0), Climate(6.5, 11.0, 3.5)


def _commute(day: int, soc: float) -> Iterator[tuple[float, float, float]]:
    """Two drives on a working day, a longer one every second Saturday, charged at home to 80 % when below 50 %."""
    used = 0.0
    if day % 7 < 5:
        yield 7.5, -0.09, 0.75
        yield 17.0, -0.11, 1.0
        used = 0.2
    elif day % 14 == 5:
        yield 10.0, -0.22, 1.5
        yield 16.0, -0.20, 1.5
        used = 0.42
    if soc - used < 0.5:
        yield 19.0, 0.8 - (soc - used), 4.5


def _taxi(day: int, soc: float) -> Iterator[tuple[float, float, float]]:
    """Two shifts on six days of seven with DC charging between them, charged slowly to 90 % at night."""
    used = 0.0
    if day % 7 != 6:
        yield 6.0, -0.60, 6.5
        yield 12.5, 0.55, 0.75
        yield 13.5, -0.60, 6.5
        used = 0.65
    if soc - used < 0.895:
        yield 21.0, 0.9 - (soc - used), 6.0


def _parked(day: int, soc: float) -> Iterator[tuple[float, float, float]]:
    """One short drive a week, charged to 90 % when below 40 %."""
    if day % 7 == 6:
        yield 11.0, -0.10, 0.75
        if soc - 0.10 < 0.4:
            yield 13.0, 1.0 - soc, 6.0


HISTORIES: dict[str, Use] = {
    "commuter_temperate": Use(TEMPERATE, _commute),
    "commuter_hot": Use(HOT, _commute),
    "commuter_cold": Use(COLD, _commute),
    "taxi_dc_cold": Use(COLD, _taxi, soc=0.9),
    "parked_temperate": Use(TEMPERATE, _parked, soc=0.9),
}


def history(use: Use) -> History:
    """The history of `use`, sampled every `STEP_S` seconds from the first midnight to the last."""
    hours, levels, soc = [0.0], [use.soc], use.soc
    for day in range(DAYS):
        for hour, change, duration_h in list(use.day(day, soc)):
            hours += [24.0 * day + hour, 24.0 * day + hour + duration_h]
            levels += [soc, soc + change]
            soc += change
    time_s = np.arange(DAYS * STEPS_PER_DAY + 1, dtype=np.float64) * STEP_S
    trace = np.asarray(np.interp(time_s / 3600.0, hours, levels), dtype=np.float64)
    return History(time_s, trace, _temperature_c(use.climate, time_s, trace))


def _temperature_c(climate: Climate, time_s: NDArray[np.float64], soc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Temperature of a pack that follows the air with a lag and is warmed by its load."""
    day, hour = time_s / 86_400.0, time_s / 3600.0
    air_c = (
        climate.mean_c
        + climate.year_c * np.cos(2.0 * np.pi * (day - 200.0) / 365.0)
        + climate.day_c * np.cos(2.0 * np.pi * (hour - 15.0) / 24.0)
    )
    c_rate = np.abs(np.diff(soc, prepend=soc[0])) * 3600.0 / STEP_S
    target_c = air_c + WARMING_C_PER_H_OF_1C * c_rate * THERMAL_LAG_H
    share = 1.0 - np.exp(-STEP_S / 3600.0 / THERMAL_LAG_H)
    temperature_c, present_c = np.empty_like(target_c), float(air_c[0])
    for index, value_c in enumerate(target_c.tolist()):
        present_c += share * (value_c - present_c)
        temperature_c[index] = present_c
    return temperature_c
