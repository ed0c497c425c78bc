"""The past of one battery in at most so many points, at a cost that does not grow with how densely it reports.

Few rows are given as they are; more are averaged, by the database or from its hourly averages where TimescaleDB keeps
them; and where averaging would read too many rows, one row stands for each interval.  The answer says which it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from console.connection_pool import Database, StoreRow, is_finite
from features.targets import TARGET_NAMES

#: More rows than this are not read for one answer: each may be a page of its own, and a page may be on disk.
MOST_ROWS = 6_000
DEFAULT_POINTS = 720
MOST_POINTS = 5_000

Method = Literal["every row", "mean", "mean of hourly means", "newest in each interval"]

_HOUR = timedelta(hours=1)
_ORIGIN = "2000-01-01 00:00:00+00"  # of the intervals; that of ev_telemetry_hourly
#: Numbers of a reading that a history shows; true or false is not averaged.
READING_COLUMNS = (
    "voltage", "current", "temperature", "soc", "soh", "ambient_temperature", "charge_cycles", "power_consumption",
    "temperature_min", "cell_voltage_min", "cell_voltage_max", "cell_voltage_median", "rul_prediction",
    "failure_probability",
)  # fmt: skip
_HOURLY = {
    "voltage": "avg_voltage",
    "current": "avg_current",
    "temperature": "avg_temperature",
    "soc": "avg_soc",
    "soh": "avg_soh",
    "charge_cycles": "max_cycles",
    "rul_prediction": "avg_rul",
    "failure_probability": "avg_failure_prob",
}
_END_FUNCTIONS = (("lowest", "min"), ("highest", "max"))
#: Of these a mean comes with the lowest and the highest reading of its interval, `<column>_lowest` and `_highest`.
RANGE_COLUMNS = ("temperature", "voltage", "current")
_PREDICTION_COLUMNS = tuple(
    (target, column, target if column == "value" else f"{target}_{column}")
    for target in TARGET_NAMES
    for column in ("value", "lower", "upper")
)


@dataclass(frozen=True)
class Window:
    """What is asked for: one battery from `since` to `until`, in at most `points` points (about)."""

    battery_id: str
    since: datetime
    until: datetime
    points: int = DEFAULT_POINTS

    @property
    def step(self) -> timedelta:
        """Length of an interval where rows have to be put together: whole seconds."""
        seconds = (self.until - self.since).total_seconds() / self.points
        return timedelta(seconds=max(1, -(-int(seconds * 1000) // 1000)))

    @property
    def parameters(self) -> Mapping[str, object]:
        """For the statements below."""
        return {"id": self.battery_id, "since": self.since, "until": self.until, "step": self.step}


@dataclass(frozen=True)
class Series:
    """Rows in time order and how they were made; `interval_s` is None where every row is there."""

    rows: Sequence[StoreRow]
    method: Method
    interval_s: float | None = None


class Histories:
    """Asks for histories; every method raises `StoreUnavailableError` where the store cannot answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def readings(self, window: Window) -> Series:
        """Readings, columns `time`, `is_charging`, `READING_COLUMNS` and the two ends of each of `RANGE_COLUMNS`.

        A mean leaves out NaN.  Means of hourly means know what `ev_telemetry_hourly` keeps, and the ends are known for
        means of readings only: None otherwise.
        """
        count = self._count("ev_telemetry", window)
        if count <= window.points:
            return self._series(_READINGS_RAW, window, "every row")
        if window.step >= _HOUR and self._keeps_hourly_means():
            return self._series(_READINGS_HOURLY, window, "mean of hourly means")
        if count <= MOST_ROWS:
            return self._series(_READINGS_MEAN, window, "mean")
        return self._series(_READINGS_SAMPLED, window, "newest in each interval")

    def predictions(self, window: Window) -> Series:
        """The champion's predictions: `time`, by target `<target>`, `<target>_lower`, `<target>_upper`, and
        `temperature_due`."""
        rows_a_moment = len(TARGET_NAMES)
        count = self._count("battery_predictions", window)
        if count <= window.points * rows_a_moment:
            return self._series(_PREDICTIONS_RAW, window, "every row")
        if count <= MOST_ROWS:
            return self._series(_PREDICTIONS_MEAN, window, "mean")
        return self._series(_PREDICTIONS_SAMPLED, window, "newest in each interval")

    def stats(self, window: Window) -> StoreRow:
        """`readings` (how many the figures are made from), `first_time`, `last_time` and, of each of
        `READING_COLUMNS`, `<column>_avg`, `_min` and `_max`."""
        return self._database.fetch_one(_STATS, window.parameters) or {}

    def sampled_stats(self, window: Window) -> StoreRow:
        """The same over one reading in each interval."""
        return self._database.fetch_one(_STATS_SAMPLED, window.parameters) or {}

    def is_dense(self, window: Window) -> bool:
        """Whether the window holds more readings than one answer may read."""
        return self._count("ev_telemetry", window) > MOST_ROWS

    def _series(self, sql: str, window: Window, method: Method) -> Series:
        interval_s = None if method == "every row" else window.step.total_seconds()
        return Series(self._database.fetch(sql, window.parameters), method, interval_s)

    def _count(self, table: str, window: Window) -> int:
        """Rows in the window, from the index alone; counting ends one above `MOST_ROWS`."""
        row = self._database.fetch_one(
            f"""SELECT count(*) AS n FROM (
                    SELECT FROM {table} WHERE battery_id = %(id)s AND time BETWEEN %(since)s AND %(until)s
                    LIMIT {MOST_ROWS + 1}
                ) few""",
            window.parameters,
        )
        return 0 if row is None else int(row["n"])

    def _keeps_hourly_means(self) -> bool:
        row = self._database.fetch_one(
            "SELECT to_regclass('timescaledb_information.continuous_aggregates') IS NOT NULL AS found"
        )
        if row is None or not row["found"]:
            return False
        found = self._database.fetch_one(
            """SELECT FROM timescaledb_information.continuous_aggregates
               WHERE view_name = 'ev_telemetry_hourly' AND view_schema = current_schema()"""
        )
        return found is not None


_WHERE = "battery_id = %(id)s AND time BETWEEN %(since)s AND %(until)s"
_BIN = f"date_bin(%(step)s, {{time}}, '{_ORIGIN}')"
_INTERVALS = (
    f"generate_series(date_bin(%(step)s, %(since)s, '{_ORIGIN}'), %(until)s::timestamptz, %(step)s) AS i(start)"
)
_IN_INTERVAL = "battery_id = %(id)s AND time >= i.start AND time < i.start + %(step)s AND time <= %(until)s"
_READINGS = ", ".join(READING_COLUMNS)
_ENDS = {f"{column}_{end}": (function, column) for column in RANGE_COLUMNS for end, function in _END_FUNCTIONS}
_NO_ENDS = ", ".join(f"NULL::double precision AS {name}" for name in _ENDS)


def _of(function: str, column: str, condition: str = "true") -> str:
    """`function` over what is known of `column`: one NaN would make it NaN."""
    return f"{function}({column}) FILTER (WHERE {condition} AND {is_finite(column)})"


def _predicted(target: str) -> str:
    return f"target = '{target}'"


_PIVOTED = ", ".join(
    f"{_of('avg', column, _predicted(target))} AS {name}" for target, column, name in _PREDICTION_COLUMNS
)
# After `time` by its horizon: a mean of forecasts stands as far after the begin of its interval as each stands after
# the moment it was made, so that it meets the mean of the readings that it is about.
_HORIZON = f"avg(due - time) FILTER (WHERE {_predicted('temperature')})"

# ruff: noqa: S608 - the names are our own, every value is a parameter
_READINGS_RAW = (
    f"SELECT time, is_charging, {_READINGS}, {_NO_ENDS} FROM ev_telemetry "
    f"WHERE {_WHERE} AND voltage IS NOT NULL ORDER BY time"
)
_READINGS_MEAN = f"""
    SELECT {_BIN.format(time="time")} AS time, bool_or(is_charging) AS is_charging,
           {", ".join(f"{_of('avg', column)} AS {column}" for column in READING_COLUMNS)},
           {", ".join(f"{_of(function, column)} AS {name}" for name, (function, column) in _ENDS.items())}
    FROM ev_telemetry WHERE {_WHERE} AND voltage IS NOT NULL GROUP BY 1 ORDER BY 1
"""
_READINGS_HOURLY = f"""
    SELECT {_BIN.format(time="bucket")} AS time, NULL::boolean AS is_charging, {
    ", ".join(
        f"{_of('avg', _HOURLY[column])} AS {column}" if column in _HOURLY else f"NULL::double precision AS {column}"
        for column in READING_COLUMNS
    )
}, {_NO_ENDS}
    FROM ev_telemetry_hourly WHERE battery_id = %(id)s AND bucket BETWEEN %(since)s AND %(until)s GROUP BY 1 ORDER BY 1
"""
_READINGS_SAMPLED = f"""
    SELECT e.*, {_NO_ENDS} FROM {_INTERVALS}, LATERAL (
        SELECT time, is_charging, {_READINGS} FROM ev_telemetry
        WHERE {_IN_INTERVAL} AND time >= %(since)s AND voltage IS NOT NULL ORDER BY time DESC LIMIT 1
    ) e ORDER BY e.time
"""
_PREDICTIONS_RAW = f"""
    SELECT time, {_PIVOTED}, time + {_HORIZON} AS temperature_due
    FROM battery_predictions WHERE {_WHERE} AND role = 'champion' GROUP BY time ORDER BY time
"""
_PREDICTIONS_MEAN = f"""
    SELECT {_BIN.format(time="time")} AS time, {_PIVOTED},
           {_BIN.format(time="time")} + {_HORIZON} AS temperature_due
    FROM battery_predictions WHERE {_WHERE} AND role = 'champion' GROUP BY 1 ORDER BY 1
"""
_PREDICTIONS_SAMPLED = f"""
    SELECT p.* FROM {_INTERVALS}, LATERAL (
        SELECT max(time) AS time, {_PIVOTED}, max(due) FILTER (WHERE {_predicted("temperature")}) AS temperature_due
        FROM (
            SELECT * FROM battery_predictions
            WHERE {_IN_INTERVAL} AND time >= %(since)s AND role = 'champion'
            ORDER BY time DESC LIMIT {len(TARGET_NAMES)}
        ) newest
    ) p WHERE p.time IS NOT NULL ORDER BY p.time
"""

_MEASURES = ", ".join(
    f"{_of(function, column)} AS {column}_{function}"
    for column in READING_COLUMNS
    for function in ("avg", "min", "max")
)
_STATS = f"""
    SELECT count(*) AS readings, min(time) AS first_time, max(time) AS last_time, {_MEASURES}
    FROM ev_telemetry WHERE {_WHERE} AND voltage IS NOT NULL
"""
_STATS_SAMPLED = f"""
    SELECT count(*) AS readings, min(time) AS first_time, max(time) AS last_time, {_MEASURES}
    FROM ({_READINGS_SAMPLED}) sampled
"""
