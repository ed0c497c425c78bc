"""Outdoor temperature as a function of time: annual and daily cycle plus weather, which differs for each battery."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.compiled import compiled

SECONDS_PER_DAY = 86_400.0
#: Weather is a sum of sines of these periods (days): a pure function of time, so that no state is stored.
WEATHER_PERIODS_DAYS = np.array([4.3, 7.9, 13.7, 23.1])


class ClimateParameters(NamedTuple):
    """Mean and amplitudes in degC; `weather_phase` is one angle (rad) for each weather period."""

    mean_c: float
    season_c: float
    day_c: float
    weather_c: float
    weather_phase: NDArray[np.float64]


@compiled
def daily_mean_c(time_s: float, climate: ClimateParameters) -> float:
    """Mean outdoor temperature, degC, of the day around `time_s` (seconds since 1970); coldest in mid January."""
    day = time_s / SECONDS_PER_DAY
    season = -math.cos(2.0 * math.pi * (day - 15.0) / 365.25)
    weather = 0.0
    for wave in range(climate.weather_phase.size):
        weather += math.sin(2.0 * math.pi * day / WEATHER_PERIODS_DAYS[wave] + climate.weather_phase[wave])
    share = weather / climate.weather_phase.size
    return climate.mean_c + climate.season_c * season + climate.weather_c * share


@compiled
def ambient_c(time_s: float, climate: ClimateParameters) -> float:
    """Outdoor temperature, degC, at `time_s`; warmest at 15:00."""
    hour = (time_s % SECONDS_PER_DAY) / 3600.0
    return daily_mean_c(time_s, climate) + climate.day_c * math.cos(2.0 * math.pi * (hour - 15.0) / 24.0)
