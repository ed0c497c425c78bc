"""Reads the fleet's current readings, predictions and model figures with a few index-based SQL statements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import psycopg2.extensions
from prometheus_client import Histogram

from features.targets import SLOW_TARGETS, TARGETS, Target
from monitoring.latest_predictions import LATEST_CHAMPION_PREDICTIONS, PREDICTION_VALID_FOR
from telemetry.stores.connection import StoreConnection
from telemetry.stores.newest import newest_outcome, newest_prediction, newest_reading

#: Newest outcomes that accuracy and coverage are computed from, by target and role.
RECENT_OUTCOMES = 500
#: A forecast is compared with readings up to this long after it was due, as in training.
FORECAST_TOLERANCE_S = 30.0
_STATEMENT_TIMEOUT_S = 5.0
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
    """

    battery_id: str
    time: datetime
    stored_at: datetime
    voltage: float
    current: float
    soc: float | None
    predicted_until: datetime | None
    waiting_since: datetime | None
    signals: Mapping[str, float | None] = field(kw_only=True)
    forecasts: Mapping[str, float] = field(kw_only=True)


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
    """A read-only connection that also counts predictions and outcomes since its first read."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, "battery-twin-metrics", statement_timeout_s=_STATEMENT_TIMEOUT_S, read_only=True)
        self._predicted_until: dict[str, datetime] | None = None
        self._last_outcome: int | None = None
        self.predictions: dict[str, int] = {}
        self.errors = {name: _error_histogram(target) for name, target in TARGETS.items()}

    def read(self) -> FleetSnapshot:
        """Read the fleet and update the counters `predictions` and `errors`."""
        with self.transaction() as cursor:
            readings = _readings(cursor)
            snapshot = FleetSnapshot(
                readings, _predictions(cursor), _actual(cursor), _recent(cursor), _drift(cursor), _retrains(cursor)
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
                "SELECT s.battery_id, p.count, p.newest "
                "FROM unnest(%s::text[], %s::timestamptz[]) AS s (battery_id, since) CROSS JOIN LATERAL ("
                "  SELECT count(*) AS count, max(time) AS newest FROM battery_predictions p "
                "  WHERE p.battery_id = s.battery_id AND p.time > COALESCE(s.since, '-infinity') "
                "  AND p.role = 'champion' OFFSET 0) p",
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
            if role == "champion" and target in self.errors:
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


def _readings(cursor: psycopg2.extensions.cursor) -> list[NewestReading]:
    cursor.execute(
        f"""
        SELECT b.battery_id, t.time, t.created_at, t.voltage, t.current, t.soc, predicted.time, waiting.created_at,
               ARRAY[{", ".join(f"t.{signal}" for signal in _SIGNALS)}]::float8[], forecasts.by_target
        FROM batteries b
        CROSS JOIN LATERAL {newest_reading()} t
        LEFT JOIN LATERAL {newest_prediction()} predicted ON true
        LEFT JOIN LATERAL (
            SELECT jsonb_object_agg(h.target, forecast.value) AS by_target
            FROM (
                SELECT target, due - time AS ahead FROM battery_predictions p
                WHERE p.battery_id = b.battery_id AND p.time = predicted.time AND p.role = 'champion'
                  AND p.due IS NOT NULL
            ) h
            CROSS JOIN LATERAL {newest_prediction(_FORECAST_FOR_READING, columns="value")} forecast
        ) forecasts ON true
        LEFT JOIN LATERAL (
            SELECT created_at FROM ev_telemetry w
            WHERE w.battery_id = b.battery_id AND w.voltage IS NOT NULL
              AND w.time > COALESCE(predicted.time, t.time - %s)
            ORDER BY w.time LIMIT 1
        ) waiting ON true
        ORDER BY b.battery_id
        """,  # noqa: S608 - constant text
        (FORECAST_TOLERANCE_S, _FIRST_PREDICTION_LOOKBACK),
    )
    return [
        NewestReading(*row, signals=dict(zip(_SIGNALS, signals, strict=True)), forecasts=forecasts or {})
        for *row, signals, forecasts in cursor.fetchall()
    ]


def _predictions(cursor: psycopg2.extensions.cursor) -> list[NewestPrediction]:
    cursor.execute(
        f"""
        SELECT b.battery_id, p.time, p.due, p.target, p.value, p.lower, p.upper, COALESCE(p.model_name, ''),
               COALESCE(p.model_version, '')
        FROM {LATEST_CHAMPION_PREDICTIONS}
        """  # noqa: S608 - constant text
    )
    return [NewestPrediction(*row) for row in cursor.fetchall()]


def _actual(cursor: psycopg2.extensions.cursor) -> dict[tuple[str, str], float]:
    cursor.execute(
        f"""
        SELECT b.battery_id, s.target, o.actual
        FROM batteries b CROSS JOIN unnest(%s::text[]) AS s (target)
        CROSS JOIN LATERAL {newest_outcome("s.target", columns="actual")} o
        """,  # noqa: S608 - constant text
        (list(SLOW_TARGETS),),
    )
    return {(battery_id, target): actual for battery_id, target, actual in cursor.fetchall()}


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
