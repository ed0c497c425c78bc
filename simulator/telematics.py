"""Telematics unit of a car: when it reports, and what gets lost, repeated or wrongly dated on the way.

Readings pass through one compiled function with a small state, so that a table gives the same as one reading at a
time.  The unit reports at its interval (0.5 s to 15 min).  It may lose messages in a row (more often while the car
moves), repeat the last reading (frozen) or the value of one sensor (stuck), leave out an optional field for a while,
send a message twice or late, and date readings by a clock that is off until it is corrected.  Required fields are
never left out.  Rates are from two real cars (`simulator.sensor_statistics`), where their data show such an event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from simulator import sensor_statistics
from simulator.messages import COLUMNS, MICROSECONDS, VALUES, TelematicsParameters, new_state, send
from telemetry.contract import READING_FIELDS, names
from telemetry.errors import TwinError

SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S = 0.5, 900.0
#: Interval from which times are whole seconds, as in GB/T 32960.3.
WHOLE_SECONDS_FROM_S = 1.0


def draw_telematics(
    rng: np.random.Generator, intervals_s: Sequence[float] = (), fault_scale: float = 1.0
) -> TelematicsParameters:
    """Draw the telematics unit of one car; its rates lie between those of the real cars.

    Args:
        intervals_s: reporting intervals of the fleet, of which one is drawn; none: the interval of the simulation.
        fault_scale: factor on all rates; 0: readings as they are, at the interval.

    Raises:
        TwinError: an interval is not between 0.5 s and 15 min, or the factor is negative.
    """
    for given in intervals_s:
        if not SHORTEST_INTERVAL_S <= given <= LONGEST_INTERVAL_S:
            sentence = f"The reporting interval is {given:g} s: it must lie between 0.5 and 900 s."
            raise TwinError(sentence, field="intervals_s", value=given)
    if not fault_scale >= 0.0:
        raise TwinError(f"fault_scale is {fault_scale!r}: it must not be negative.", field="fault_scale")
    interval_s = float(intervals_s[int(rng.integers(len(intervals_s)))]) if intervals_s else 0.0
    rare = 0.5 / sum(sensor_statistics.values("readings"))

    def share(name: str, of: str = "readings") -> float:
        low, high = np.log(sensor_statistics.share_span(name, of))
        return min(fault_scale * float(np.exp(rng.uniform(low, high))), 1.0)

    def in_a_row(*measured: str) -> float:
        return max(float(rng.uniform(*sensor_statistics.span(*measured))), 1.0)

    return TelematicsParameters(
        interval_s=interval_s,
        time_step_s=1.0 if interval_s >= WHOLE_SECONDS_FROM_S and fault_scale > 0.0 else 0.0,
        off_interval_share=share("off_interval_share"),
        off_interval_s=in_a_row("off_interval_s"),
        loss_share_moving=share("loss_share_moving", "moving_readings"),
        loss_share_standing=share("loss_share_standing"),
        lost_in_a_row=in_a_row("lost_in_a_row_moving", "lost_in_a_row_standing"),
        # Neither car has frozen or stuck readings: half an event is assumed.
        frozen_share=share("frozen_share", "moving_readings"),
        frozen_in_a_row=3.0,
        stuck_share=share("stuck_share", "moving_readings"),
        stuck_in_a_row=20.0,
        dropout_share=share("dropout_share"),
        dropped_in_a_row=max(sensor_statistics.values("dropped_in_a_row")),
        duplicate_share=share("duplicate_share"),
        # The cars' files are sorted, so that they cannot show late readings and wrong clocks: half an event is assumed.
        late_share=fault_scale * rare,
        late_by=2.0,
        clock_share=fault_scale * rare,
        clock_in_a_row=20.0,
    )


class Telematics:
    """Telematics unit of one battery.

    Args:
        unit: its interval and rates.
        rng: a generator of its own: with that of the sensors, a table would differ from single readings.
    """

    def __init__(self, unit: TelematicsParameters, rng: np.random.Generator) -> None:
        self.unit = unit
        self._rng = rng
        self._state = new_state()

    def table(self, readings: pd.DataFrame) -> pd.DataFrame:
        """What arrives of one battery's readings (columns of the contract, in time order), in the order of arrival."""
        if readings.empty:
            return readings
        time_us = readings["time"].astype("int64").to_numpy().astype(np.float64)
        values = readings[list(VALUES)].to_numpy(dtype=np.float64)
        sent_us, sent = send(time_us, values, self.unit, COLUMNS, self._state, self._rng)
        columns = {
            "battery_id": np.full(len(sent), readings["battery_id"].iloc[0], dtype=object),
            "time": pd.to_datetime(sent_us.astype("int64"), unit="us", utc=True).as_unit("us"),
            **{name: sent[:, column] for column, name in enumerate(VALUES)},
        }
        return pd.DataFrame(columns, columns=names(READING_FIELDS)).astype({"battery_id": "str"})

    def send(self, reading: dict[str, object]) -> list[dict[str, object]]:
        """What arrives with one reading (fields of the contract): usually one, none or several; missing is None."""
        time = reading["time"]
        if not isinstance(time, datetime):
            raise TwinError(f"time is {time!r}: it must be a datetime.", field="time", value=time)
        time_us = np.array([round(time.timestamp() * MICROSECONDS)], dtype=np.float64)
        values = np.array([[_number(reading.get(name)) for name in VALUES]])
        sent_us, sent = send(time_us, values, self.unit, COLUMNS, self._state, self._rng)
        return [
            {
                "battery_id": reading["battery_id"],
                "time": datetime.fromtimestamp(one_us / MICROSECONDS, UTC),
                **{name: _field(name, value) for name, value in zip(VALUES, row, strict=True)},
            }
            for one_us, row in zip(sent_us.tolist(), sent.tolist(), strict=True)
        ]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _field(name: str, value: float) -> object:
    if math.isnan(value):
        return None
    return bool(value) if name == "is_charging" else value
