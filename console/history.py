"""Downsampled history of one battery: readings, predictions and statistics of a time window at bounded cost.

Few rows are returned as they are; more are averaged per interval, by the database or from TimescaleDB's hourly
aggregates; if averaging would read too many rows, the newest row of each interval is returned.  The result names the
method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from console.connection_pool import Database, StoreRow, is_finite
from features.targets import FORECASTS, TARGET_NAMES

#: Limit on the rows read for one response: each row may lie on another page of the table, and pages may be on disk.
MAX_ROWS = 6_000
DEFAULT_POINTS = 720
MAX_POINTS = 5_000

Method = Literal["every row", "mean", "mean of hourly means", "newest in each interval"]

_HOUR = timedelta(hours=1)
_ORIGIN = "2000-01-01 00:00:00+00"  # of the intervals; the same as of ev_telemetry_hourly
#: Numeric columns of a reading in a history.
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
_RANGE_FUNCTIONS = (("lowest", "min"), ("highest", "max"))
#: Columns whose means come with the minimum and maximum of the interval, `<column>_lowest` and `<column>_highest`.
RANGE_COLUMNS = ("temperature", "voltage", "current")
_PREDICTION_COLUMNS = tuple(
    (target, column, target if column == "value" else f"{target}_{column}")
    for target in TARGET_NAMES
    for column in ("value", "lower", "upper")
)


@dataclass(frozen=True)
class HistoryWindow:
    """Time window of one battery from `since` to `until`, to be returned as about `points` points at most."""

    battery_id: str
    since: datetime
    until: datetime
    points: int = DEFAULT_POINTS

    @property
    def step(self) -> timedelta:
        """Length of the intervals if the window is downsampled: whole seconds."""
        seconds = (self.until - self.since).total_seconds() / self.points
        return timedelta(seconds=max(1, -(-int(seconds * 1000) // 1000)))

    @property
    def parameters(self) -> Mapping[str, object]:
        """Parameters of the SQL statements below."""
        return {"id": self.battery_id, "since": self.since, "until": self.until, "step": self.step}


@dataclass(frozen=True)
class HistorySeries:
    """Rows in time order and how they were downsampled; `interval_s` is None if all rows are there."""

    rows: Sequence[StoreRow]
    method: Method
    interval_s: float | None = None


class HistoryQueries:
    """Queries for histories; every method raises `StoreUnavailableError` if the store is unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def readings(self, window: HistoryWindow) -> HistorySeries:
        """Readings: `time`, `is_charging`, `READING_COLUMNS`, minimum and maximum of each of `RANGE_COLUMNS`.

        Means ignore NaN.  Means of hourly means have only the columns of `ev_telemetry_hourly`, and minimum and maximum
        exist only for means of readings; the others are None.
        """
        count = self._count("ev_telemetry", window)
        if count <= window.points:
            return self._series(_READINGS_RAW, window, "every row")
        if window.step >= _HOUR and self._has_hourly_means():
            return self._series(_READINGS_HOURLY, window, "mean of hourly means")
        if count <= MAX_ROWS:
            return self._series(_READINGS_MEAN, window, "mean")
        return self._series(_READINGS_SAMPLED, window, "newest in each interval")

    def predictions(self, window: HistoryWindow) -> HistorySeries:
        """The champion's predictions: `time`, `<target>`, `<target>_lower`, `<target>_upper` and `<forecast>_due`."""
        rows_per_reading = len(TARGET_NAMES)
        count = self._count("battery_predictions", window)
        if count <= window.points * rows_per_reading:
            return self._series(_PREDICTIONS_RAW, window, "every row")
        if count <= MAX_ROWS:
            return self._series(_PREDICTIONS_MEAN, window, "mean")
        return self._series(_PREDICTIONS_SAMPLED, window, "newest in each interval")

    def stats(self, window: HistoryWindow) -> StoreRow:
        """Number of `readings`, `first_time`, `last_time`, and `<column>_avg`, `_min`, `_max` of `READING_COLUMNS`."""
        return self._database.fetch_one(_STATS, window.parameters) or {}

    def sampled_stats(self, window: HistoryWindow) -> StoreRow:
        """The same from one reading per interval."""
        return self._database.fetch_one(_STATS_SAMPLED, window.parameters) or {}

    def is_dense(self, window: HistoryWindow) -> bool:
        """Whether the window holds more than `MAX_ROWS` readings."""
        return self._count("ev_telemetry", window) > MAX_ROWS

    def _series(self, sql: str, window: HistoryWindow, method: Method) -> HistorySeries:
        interval_s = None if method == "every row" else window.step.total_seconds()
        return HistorySeries(self._database.fetch(sql, window.parameters), method, interval_s)

    def _count(self, table: str, window: HistoryWindow) -> int:
        """Number of rows in the window, from the index alone; counting stops at `MAX_ROWS + 1`."""
        row = self._database.fetch_one(
            f"""SELECT count(*) AS n FROM (
                    SELECT FROM {table} WHERE battery_id = %(id)s AND time BETWEEN %(since)s AND %(until)s
                    LIMIT {MAX_ROWS + 1}
                ) few""",
            window.parameters,
        )
        return 0 if row is None else int(row["n"])

    def _has_hourly_means(self) -> bool:
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
_RANGES = {f"{column}_{end}": (function, column) for column in RANGE_COLUMNS for end, function in _RANGE_FUNCTIONS}
_NULL_RANGES = ", ".join(f"NULL::double precision AS {name}" for name in _RANGES)


def _aggregate(function: str, column: str, condition: str = "true") -> str:
    """SQL aggregate `function` over the finite values of `column`: one NaN would make the result NaN."""
    return f"{function}({column}) FILTER (WHERE {condition} AND {is_finite(column)})"


def _is_target(target: str) -> str:
    return f"target = '{target}'"


_PIVOTED = ", ".join(
    f"{_aggregate('avg', column, _is_target(target))} AS {name}" for target, column, name in _PREDICTION_COLUMNS
)


def _due_times(due: str) -> str:
    """Columns `<forecast>_due`; `due` ends with an aggregate."""
    return ", ".join(f"{due} FILTER (WHERE {_is_target(name)}) AS {name}_due" for name in FORECASTS)


# The due time of a mean of forecasts is the start of its interval plus the horizon, so that it lines up with the mean
# of the readings that the forecasts are for.
_HORIZON = "avg(due - time)"

# ruff: noqa: S608 - the names are constants, every value is a parameter
_READINGS_RAW = (
    f"SELECT time, is_charging, {_READINGS}, {_NULL_RANGES} FROM ev_telemetry "
    f"WHERE {_WHERE} AND voltage IS NOT NULL ORDER BY time"
)
_READINGS_MEAN = f"""
    SELECT {_BIN.format(time="time")} AS time, bool_or(is_charging) AS is_charging,
           {", ".join(f"{_aggregate('avg', column)} AS {column}" for column in READING_COLUMNS)},
           {", ".join(f"{_aggregate(function, column)} AS {name}" for name, (function, column) in _RANGES.items())}
    FROM ev_telemetry WHERE {_WHERE} AND voltage IS NOT NULL GROUP BY 1 ORDER BY 1
"""
_READINGS_HOURLY = f"""
    SELECT {_BIN.format(time="bucket")} AS time, NULL::boolean AS is_charging, {
    ", ".join(
        f"{_aggregate('avg', _HOURLY[column])} AS {column}"
        if column in _HOURLY
        else f"NULL::double precision AS {column}"
        for column in READING_COLUMNS
    )
}, {_NULL_RANGES}
    FROM ev_telemetry_hourly WHERE battery_id = %(id)s AND bucket BETWEEN %(since)s AND %(until)s GROUP BY 1 ORDER BY 1
"""
_READINGS_SAMPLED = f"""
    SELECT e.*, {_NULL_RANGES} FROM {_INTERVALS}, LATERAL (
        SELECT time, is_charging, {_READINGS} FROM ev_telemetry
        WHERE {_IN_INTERVAL} AND time >= %(since)s AND voltage IS NOT NULL ORDER BY time DESC LIMIT 1
    ) e ORDER BY e.time
"""
_PREDICTIONS_RAW = f"""
    SELECT time, {_PIVOTED}, {_due_times(f"time + {_HORIZON}")}
    FROM battery_predictions WHERE {_WHERE} AND role = 'champion' GROUP BY time ORDER BY time
"""
_PREDICTIONS_MEAN = f"""
    SELECT {_BIN.format(time="time")} AS time, {_PIVOTED},
           {_due_times(f"{_BIN.format(time='time')} + {_HORIZON}")}
    FROM battery_predictions WHERE {_WHERE} AND role = 'champion' GROUP BY 1 ORDER BY 1
"""
_PREDICTIONS_SAMPLED = f"""
    SELECT p.* FROM {_INTERVALS}, LATERAL (
        SELECT max(time) AS time, {_PIVOTED}, {_due_times("max(due)")}
        FROM (
            SELECT * FROM battery_predictions
            WHERE {_IN_INTERVAL} AND time >= %(since)s AND role = 'champion'
            ORDER BY time DESC LIMIT {len(TARGET_NAMES)}
        ) newest
    ) p WHERE p.time IS NOT NULL ORDER BY p.time
"""

_MEASURES = ", ".join(
    f"{_aggregate(function, column)} AS {column}_{function}"
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
