"""Reads the fleet's current readings, predictions and model figures with a few index-based SQL statements."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import psycopg2.extensions
from prometheus_client import Histogram

from features.targets import FORECASTS, SLOW_TARGETS, TARGETS, Target
from monitoring.latest_predictions import LATEST_CHAMPION_PREDICTIONS, PREDICTION_VALID_FOR
from monitoring.unreadable import UnreadableRows
from telemetry.stores.connection import StoreConnection
from telemetry.stores.newest import TIME_END, TIME_LIMIT, TIME_START, newest_outcome, newest_prediction, newest_reading
from telemetry.thresholds import THRESHOLDS, is_overdue

#: Newest outcomes that accuracy and coverage are computed from, by target and role.
RECENT_OUTCOMES = 500
#: A forecast is compared with readings up to this long after it was due, as in training.
FORECAST_TOLERANCE_S = 30.0
_STATEMENT_TIMEOUT_S = 5.0
#: Signals whose alerts need two readings, and whether high values are bad.
CONFIRMED: dict[str, bool] = {
    row.quantity: row.is_high for row in THRESHOLDS if row.use == "prometheus" and row.readings > 1
}
_SIGNALS = tuple(dict.fromkeys(target.signal for target in TARGETS.values() if target.signal is not None))
#: How far back the oldest waiting reading of a battery without any prediction is searched.
_FIRST_PREDICTION_LOOKBACK = timedelta(hours=1)

#: Condition on a prediction `n`: the forecast for the time of reading `t`, of target and horizon `h`.
_FORECAST_FOR_READING = (
    "n.target = h.target AND n.time BETWEEN t.time - h.ahead - make_interval(secs => %s) AND t.time - h.ahead"
)


@dataclass(frozen=True)
class NewestReading:
    """The newest reading of a battery; missing values are None.

    Attributes:
        stored_at: when it reached the store, on the wall clock; `time` is event time.
        predicted_until: event time of the battery's newest champion prediction.
        waiting_since: when the oldest reading without a prediction reached the store, on the wall clock; of a battery
            without any prediction, in its last hour of readings; None if none waits.
        signals: measured values by `Target.signal`.
        forecasts: earlier forecasts for the time of this reading, by target.
        confirmed: the milder of the values of the newest two readings, by `CONFIRMED`; that of the newest one once the
            next is overdue.  Alerts use it: a single reading may be a fault of its sensor.
    """

    battery_id: str
    time: datetime
    stored_at: datetime
    voltage: float | None
    current: float | None
    soc: float | None
    predicted_until: datetime | None
    waiting_since: datetime | None
    signals: Mapping[str, float | None] = field(kw_only=True)
    forecasts: Mapping[str, float] = field(kw_only=True)
    confirmed: Mapping[str, float] = field(kw_only=True)


@dataclass(frozen=True)
class NewestPrediction:
    """The champion's newest prediction of one target of one battery, made from the reading at `time`."""

    battery_id: str
    time: datetime
    due: datetime | None
    target: str
    value: float
    lower: float | None
    upper: float | None
    model_name: str
    model_version: str


@dataclass(frozen=True)
class RecentOutcomes:
    """Figures of the newest outcomes of one target and role.

    Attributes:
        accuracy: mean of 100 x max(0, 1 - |error| / max(|actual|, floor)), %.
        with_interval, covered: number of outcomes with an interval, and of those whose actual value lies in it.
    """

    target: str
    role: str
    count: int
    mean_absolute_error: float
    accuracy: float
    with_interval: int
    covered: int


@dataclass(frozen=True)
class TargetDrift:
    """A row of `drift_status`."""

    target: str
    kind: str
    score: float
    threshold: float
    is_drifting: bool


@dataclass(frozen=True)
class RetrainCounts:
    """Counts of the table `retrains`: by outcome, running, and by state of promotion monitoring."""

    outcomes: Mapping[str, int] = field(default_factory=dict)
    running: int = 0
    watches: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FleetSnapshot:
    """State of the fleet at one time; `actual` holds the newest label by battery and slow target."""

    readings: list[NewestReading] = field(default_factory=list)
    predictions: list[NewestPrediction] = field(default_factory=list)
    actual: Mapping[tuple[str, str], float] = field(default_factory=dict)
    recent: list[RecentOutcomes] = field(default_factory=list)
    drift: list[TargetDrift] = field(default_factory=list)
    retrains: RetrainCounts = field(default_factory=RetrainCounts)

    def valid_predictions(self) -> list[NewestPrediction]:
        """Predictions that are not expired relative to the battery's newest reading."""
        newest = {reading.battery_id: reading.time for reading in self.readings}
        return [
            prediction
            for prediction in self.predictions
            if (now := newest.get(prediction.battery_id)) is None
            or (now - prediction.time <= PREDICTION_VALID_FOR and (prediction.due is None or prediction.due > now))
        ]


class FleetReader(StoreConnection):
    """A read-only connection that also counts predictions and outcomes since its first read.

    Args:
        max_future_s: as in `StoreConnection`.
        unreadable: counts the batteries that are left out.
    """

    def __init__(self, dsn: str, max_future_s: float | None = None, unreadable: UnreadableRows | None = None) -> None:
        super().__init__(
            dsn,
            "battery-twin-metrics",
            statement_timeout_s=_STATEMENT_TIMEOUT_S,
            read_only=True,
            max_future_s=max_future_s,
        )
        self._predicted_until: dict[str, datetime] | None = None
        self._last_outcome: int | None = None
        self.predictions: dict[str, int] = {}
        self.unreadable = UnreadableRows() if unreadable is None else unreadable
        self.errors = {name: _error_histogram(target) for name, target in TARGETS.items()}

    def read(self) -> FleetSnapshot:
        """Read the fleet and update the counters `predictions` and `errors`."""
        with self.transaction() as cursor:
            readings = _readings(cursor, self.unreadable)
            snapshot = FleetSnapshot(
                readings,
                _predictions(cursor, self.unreadable),
                _actual(cursor),
                _recent(cursor),
                _drift(cursor),
                _retrains(cursor),
            )
            self._count_predictions(cursor, readings)
            self._collect_errors(cursor)
        return snapshot

    def _count_predictions(self, cursor: psycopg2.extensions.cursor, readings: list[NewestReading]) -> None:
        """Count the champion predictions that are newer than the cursor of their battery."""
        newest = {
            reading.battery_id: reading.predicted_until for reading in readings if reading.predicted_until is not None
        }
        if self._predicted_until is None:
            self._predicted_until = dict(newest)
        since = {
            battery_id: self._predicted_until.get(battery_id)
            for battery_id, time in newest.items()
            if self._predicted_until.get(battery_id) != time
        }
        if since:
            cursor.execute(
                "SELECT s.battery_id, p.count, p.newest "  # noqa: S608 - constant text
                "FROM unnest(%s::text[], %s::timestamptz[]) AS s (battery_id, since) CROSS JOIN LATERAL ("
                "  SELECT count(*) AS count, max(time) AS newest FROM battery_predictions p "
                "  WHERE p.battery_id = s.battery_id AND p.time > COALESCE(s.since, '-infinity') "
                f"  AND p.time <= {TIME_LIMIT} AND p.role = 'champion' OFFSET 0) p",
                (list(since), list(since.values())),
            )
            for battery_id, count, until in cursor.fetchall():
                if count:
                    self.predictions[battery_id] = self.predictions.get(battery_id, 0) + count
                    self._predicted_until[battery_id] = until
        for battery_id in newest:
            self.predictions.setdefault(battery_id, 0)

    def _collect_errors(self, cursor: psycopg2.extensions.cursor) -> None:
        if self._last_outcome is None:
            cursor.execute("SELECT COALESCE(max(outcome_id), 0) FROM prediction_outcomes")
            (self._last_outcome,) = cursor.fetchone() or (0,)
            return
        cursor.execute(
            "SELECT outcome_id, target, role, error FROM prediction_outcomes WHERE outcome_id > %s ORDER BY outcome_id",
            (self._last_outcome,),
        )
        for outcome_id, target, role, error in cursor:
            self._last_outcome = outcome_id
            if role == "champion" and target in self.errors and math.isfinite(error):
                self.errors[target].labels(target).observe(abs(error))


def _error_histogram(target: Target) -> Histogram:
    """Absolute errors of one target, exported from the start, without a registry: targets differ in their buckets."""
    histogram = Histogram(
        "prediction_error",
        "absolute error of the champion, in the unit of the metric",
        ["metric"],
        buckets=target.shown.error_buckets,
        registry=None,
    )
    histogram.labels(target.name)
    return histogram


def _readings(cursor: psycopg2.extensions.cursor, unreadable: UnreadableRows) -> list[NewestReading]:
    cursor.execute(
        f"""
        SELECT b.battery_id, t.time, t.created_at, t.voltage, t.current, t.soc, predicted.time, waiting.created_at,
               ARRAY[{", ".join(f"t.{signal}" for signal in _SIGNALS)}]::float8[], forecasts.by_target,
               ARRAY[{", ".join(f"t.{signal}" for signal in CONFIRMED)}]::float8[],
               ARRAY[{", ".join(f"previous.{signal}" for signal in CONFIRMED)}]::float8[],
               CASE WHEN isfinite(t.created_at) THEN extract(epoch FROM now() - t.created_at)::float8 END,
               extract(epoch FROM t.time - previous.time)::float8
        FROM batteries b
        CROSS JOIN LATERAL {newest_reading()} t
        LEFT JOIN LATERAL {newest_reading("n.time < t.time")} previous ON true
        LEFT JOIN LATERAL {newest_prediction()} predicted ON true
        LEFT JOIN LATERAL (
            SELECT jsonb_object_agg(h.target, forecast.value) FILTER (WHERE abs(forecast.value) < 'Infinity')
                AS by_target
            FROM (
                SELECT target, due - time AS ahead FROM battery_predictions p
                WHERE p.battery_id = b.battery_id AND p.time = predicted.time AND p.role = 'champion'
                  AND p.due BETWEEN {TIME_START} AND {TIME_END}
            ) h
            CROSS JOIN LATERAL {newest_prediction(_FORECAST_FOR_READING, columns="value")} forecast
        ) forecasts ON true
        LEFT JOIN LATERAL (
            SELECT created_at FROM ev_telemetry w
            WHERE w.battery_id = b.battery_id AND w.voltage IS NOT NULL
              AND w.time > COALESCE(predicted.time, t.time - %s) AND w.time <= {TIME_LIMIT}
            ORDER BY w.time LIMIT 1
        ) waiting ON true
        ORDER BY b.battery_id
        """,  # noqa: S608 - constant text
        (FORECAST_TOLERANCE_S, _FIRST_PREDICTION_LOOKBACK),
    )
    readings = []
    for battery_id, time, stored_at, voltage, current, soc, *others in cursor.fetchall():
        until, waiting, signals, forecasts, newest, previous, stored_s, interval_s = others
        if time is None or stored_at is None or stored_s is None:
            unreadable.add("newest reading", battery_id, f"time {time} or created_at {stored_at} is out of range")
            continue
        readings.append(
            NewestReading(
                battery_id,
                time,
                stored_at,
                finite(voltage),
                finite(current),
                finite(soc),
                until,
                waiting,
                signals=dict(zip(_SIGNALS, map(finite, signals), strict=True)),
                forecasts=forecasts or {},
                confirmed=_confirmed(newest, previous, is_alone=is_overdue(stored_s, interval_s)),
            )
        )
    return readings


def finite(value: float | None) -> float | None:
    """`value`, None where it is NaN or infinite: an unknown value has no sample."""
    return value if value is not None and math.isfinite(value) else None


def _confirmed(newest: Sequence[float | None], previous: Sequence[float | None], *, is_alone: bool) -> dict[str, float]:
    """Values by `CONFIRMED`; none where a reading lacks the value."""
    found = {}
    values = zip(CONFIRMED.items(), map(finite, newest), map(finite, previous), strict=True)
    for (name, is_high), now, before in values:
        if now is not None and is_alone:
            found[name] = now
        elif now is not None and before is not None:
            found[name] = min(now, before) if is_high else max(now, before)
    return found


def _predictions(cursor: psycopg2.extensions.cursor, unreadable: UnreadableRows) -> list[NewestPrediction]:
    cursor.execute(
        f"""
        SELECT b.battery_id, p.time, p.due, p.target, p.value, p.lower, p.upper, COALESCE(p.model_name, ''),
               COALESCE(p.model_version, '')
        FROM {LATEST_CHAMPION_PREDICTIONS}
        """  # noqa: S608 - constant text
    )
    predictions = []
    for battery_id, time, due, target, value, lower, upper, name, version in cursor.fetchall():
        if finite(value) is None or (due is None and target in FORECASTS):
            unreadable.add("newest prediction", battery_id, f"{target} is {value}, due at {due}")
            continue
        bounds = finite(lower), finite(upper)
        predictions.append(NewestPrediction(battery_id, time, due, target, value, *bounds, name, version))
    return predictions


def _actual(cursor: psycopg2.extensions.cursor) -> dict[tuple[str, str], float]:
    cursor.execute(
        f"""
        SELECT b.battery_id, s.target, o.actual
        FROM batteries b CROSS JOIN unnest(%s::text[]) AS s (target)
        CROSS JOIN LATERAL {newest_outcome("s.target", columns="actual")} o
        """,  # noqa: S608 - constant text
        (list(SLOW_TARGETS),),
    )
    return {
        (battery_id, target): actual for battery_id, target, actual in cursor.fetchall() if finite(actual) is not None
    }


def _recent(cursor: psycopg2.extensions.cursor) -> list[RecentOutcomes]:
    cursor.execute(
        """
        SELECT s.target, s.role, count(*), avg(abs(o.error)),
               100.0 * avg(GREATEST(0.0, 1.0 - abs(o.error) / GREATEST(abs(o.actual), s.floor))),
               count(o.lower), count(*) FILTER (WHERE o.actual BETWEEN o.lower AND o.upper)
        FROM (SELECT * FROM unnest(%(targets)s::text[], %(floors)s::float8[]) AS t (target, floor)
              CROSS JOIN (VALUES ('champion'), ('challenger')) AS r (role)) s
        CROSS JOIN LATERAL (
            SELECT * FROM prediction_outcomes o WHERE o.target = s.target AND o.role = s.role
              AND abs(o.error) < 'Infinity' AND abs(o.actual) < 'Infinity'
            ORDER BY o.matured_at DESC LIMIT %(count)s
        ) o
        GROUP BY s.target, s.role
        """,
        {
            "targets": list(TARGETS),
            "floors": [target.floor * target.shown.factor for target in TARGETS.values()],
            "count": RECENT_OUTCOMES,
        },
    )
    return [RecentOutcomes(*row) for row in cursor.fetchall()]


def _drift(cursor: psycopg2.extensions.cursor) -> list[TargetDrift]:
    cursor.execute("SELECT target, kind, score, threshold, is_drifting FROM drift_status")
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return [TargetDrift(*row) for row in rows]


def _retrains(cursor: psycopg2.extensions.cursor) -> RetrainCounts:
    cursor.execute("SELECT outcome, watch, count(*) FROM retrains GROUP BY outcome, watch")
    outcomes, watches, running = Counter[str](), Counter[str](), 0
    for outcome, watch, count in cursor.fetchall():
        if outcome is None:
            running += count
        else:
            outcomes[outcome] += count
        if watch is not None:
            watches[watch] += count
    return RetrainCounts(outcomes, running, watches)
