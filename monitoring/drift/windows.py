"""Reads one window of event time from the store: features, predictions and errors.  Bounded and deterministic.

Features are not stored, so they are recomputed from the readings of a sample of batteries: thinned readings, from half
a day before the window on, after which the state no longer depends on earlier readings.  Earlier history comes from
`battery_cycles`.  Rows and predictions are taken at the same times as in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg2.extensions

from features.battery_row import set_battery_from_row
from features.labels import LabelParams
from features.state import READING_INPUTS, FloatArray, new_states
from features.state_update import CYCLE_FEATURES, READING_FEATURES, IntArray, update_from_cycles, update_from_readings
from features.targets import TARGETS
from monitoring.drift.bounds import thinned
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import MonitoredModel
from monitoring.latest_predictions import LATEST_CHAMPION_PREDICTIONS
from monitoring.unreadable import UnreadableRows
from telemetry.stores import history
from telemetry.stores.newest import newest_reading

Connection = psycopg2.extensions.connection

#: One row per battery and interval, as in training.
_ROW_INTERVAL_S = LabelParams().temperature_every_s
#: Readings are thinned to one per battery and interval.
_READING_INTERVAL_S = 10.0
#: Longer than a charge overnight and many times the time constants of the state.
_WARM_UP = timedelta(hours=12)


@dataclass(frozen=True)
class WindowValues:
    """Rows of one kind and window.

    Attributes:
        battery: int64[n], index of each row's battery, contiguous from 0.
        values: float64[n, F].
        samples: number of values behind the rows; more than n where a row is an aggregate.
    """

    battery: IntArray
    values: FloatArray
    samples: int

    @property
    def batteries(self) -> int:
        """Number of batteries."""
        return len(np.unique(self.battery))

    def is_sufficient(self, params: DriftParams) -> bool:
        """Whether there are enough rows and batteries to measure the window."""
        return self.samples >= params.min_rows and self.batteries >= params.min_batteries


@dataclass(frozen=True)
class WindowFeatures:
    """Feature rows of one cadence in a window.

    Attributes:
        names: of the F features.
        features: float64[n, F], NaN where missing.
        battery_ids: n of them, grouped by battery.
        time_s: float64[n], s since the epoch.
    """

    names: tuple[str, ...]
    features: FloatArray
    battery_ids: Sequence[str]
    time_s: FloatArray

    def columns(self, names: Sequence[str]) -> WindowValues:
        """The features `names`, in that order; NaN for a feature that this version does not have."""
        values = np.full((len(self.features), len(names)), np.nan)
        for column, name in enumerate(names):
            if name in self.names:
                values[:, column] = self.features[:, self.names.index(name)]
        return _values(self.battery_ids, values)


def watermark(connection: Connection, batteries: int) -> datetime | None:
    """Event time that this many batteries have reached, None if fewer sent data; one clock set ahead has no effect."""
    rows = _fetch(
        connection,
        f"SELECT t.time FROM batteries b CROSS JOIN LATERAL {newest_reading(columns='time')} t "  # noqa: S608 - constant text
        "ORDER BY t.time DESC OFFSET %s LIMIT 1",
        (batteries - 1,),
    )
    return rows[0][0] if rows else None


def current_champions(connection: Connection) -> dict[str, tuple[str, str]]:
    """Name and version of the model that made the newest champion prediction of each target."""
    rows = _fetch(
        connection,
        f"""
        SELECT DISTINCT ON (p.target) p.target, p.model_name, p.model_version
        FROM {LATEST_CHAMPION_PREDICTIONS}
        WHERE p.model_name <> '' AND p.model_version <> ''
        ORDER BY p.target, p.predicted_at DESC, p.time DESC
        """,  # noqa: S608 - constant text
    )
    return {target: (name, version) for target, name, version in rows if target in TARGETS}


def sample_batteries(connection: Connection, start: datetime, end: datetime, count: int) -> list[str]:
    """Up to `count` batteries with readings in the window, as far as possible the same in every window."""
    rows = _fetch(
        connection,
        "SELECT b.battery_id FROM batteries b CROSS JOIN LATERAL (SELECT FROM ev_telemetry t "
        "WHERE t.battery_id = b.battery_id AND t.time >= %s AND t.time < %s AND t.voltage IS NOT NULL LIMIT 1) t",
        (start, end),
    )
    ranked = sorted((battery_id for (battery_id,) in rows), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return sorted(ranked[:count])


def first_window(
    connection: Connection,
    target: str,
    model: tuple[str, str],
    battery_ids: Sequence[str],
    begin: datetime,
    until: datetime,
    params: DriftParams,
) -> datetime:
    """Start of the first window since `begin` from which on only `model` predicted for `battery_ids`.

    Args:
        begin: start of a window.
        until: the watermark.
    """
    length = timedelta(seconds=params.window_s)
    rows = _fetch(
        connection,
        """
        SELECT w.start, bool_and(first.model_name = %(name)s AND first.model_version = %(version)s)
        FROM generate_series(%(begin)s::timestamptz, %(until)s::timestamptz, %(length)s::interval) w (start)
        CROSS JOIN unnest(%(ids)s::text[]) b (battery_id)
        CROSS JOIN LATERAL (
            SELECT model_name, model_version FROM battery_predictions p
            WHERE p.battery_id = b.battery_id AND p.target = %(target)s AND p.role = 'champion'
              AND p.time >= w.start AND p.time < w.start + %(length)s::interval
            ORDER BY p.time LIMIT 1
        ) first
        GROUP BY w.start ORDER BY w.start DESC
        """,
        {
            "name": model[0],
            "version": model[1],
            "begin": begin,
            "until": until,
            "length": length,
            "ids": list(battery_ids),
            "target": target,
        },
    )
    first = window_start(until, params) + length
    for start, is_only_model in rows:
        if not is_only_model:
            break
        first = start
    return first


def window_start(time: datetime, params: DriftParams) -> datetime:
    """Start of the window that contains `time`; windows are aligned to the epoch."""
    return datetime.fromtimestamp(time.timestamp() // params.window_s * params.window_s, UTC)


def predictions(connection: Connection, champion: MonitoredModel, rows_at: WindowFeatures) -> WindowValues:
    """Predictions of `champion` at the times of `rows_at`, or the first within one row interval after."""
    rows = _fetch(
        connection,
        """
        SELECT r.battery_id, p.value
        FROM unnest(%(ids)s::text[], %(times)s::float8[]) WITH ORDINALITY r (battery_id, time_s, number)
        CROSS JOIN LATERAL (
            SELECT value FROM battery_predictions p
            WHERE p.battery_id = r.battery_id AND p.target = %(target)s AND p.role = 'champion'
              AND p.model_name = %(name)s AND p.model_version = %(version)s
              AND p.time >= to_timestamp(r.time_s) AND p.time < to_timestamp(r.time_s + %(interval_s)s)
            ORDER BY p.time LIMIT 1
        ) p
        ORDER BY r.number
        """,
        {
            "ids": list(rows_at.battery_ids),
            "times": rows_at.time_s.tolist(),
            "target": champion.target,
            "name": champion.model_name,
            "version": champion.model_version,
            "interval_s": _ROW_INTERVAL_S,
        },
    )
    return _values([battery_id for battery_id, _ in rows], np.array([[value] for _, value in rows]))


def errors(connection: Connection, champion: MonitoredModel, start: datetime, end: datetime) -> WindowValues:
    """Mean absolute error of `champion` by battery, over the labels that matured in the window."""
    rows = _fetch(
        connection,
        "SELECT battery_id, avg(abs(error)), count(*) FROM prediction_outcomes "
        "WHERE target = %s AND role = 'champion' AND matured_at >= %s AND matured_at < %s "
        "AND model_name = %s AND model_version = %s GROUP BY battery_id",
        (champion.target, start, end, champion.model_name, champion.model_version),
    )
    values = _values([row[0] for row in rows], np.array([[row[1]] for row in rows]))
    return replace(values, samples=sum(int(row[2]) for row in rows))


def window_features(
    connection: Connection,
    battery_ids: Sequence[str],
    start: datetime,
    params: DriftParams,
    unreadable: UnreadableRows | None = None,
) -> dict[str, WindowFeatures]:
    """Feature rows of the window from `start` on, by cadence; at most `rows_per_battery` of each battery.

    Args:
        unreadable: counts the batteries that are left out.
    """
    attributes = history.batteries(connection, battery_ids)
    unreadable = UnreadableRows() if unreadable is None else unreadable
    none = {"reading": np.empty((0, 1 + len(READING_FEATURES))), "cycle": np.empty((0, 1 + len(CYCLE_FEATURES)))}
    batteries = [none] * len(battery_ids)
    for number, battery_id in enumerate(battery_ids):
        with unreadable.skipping("drift", battery_id):
            attributes_of = attributes.get(battery_id, {})
            batteries[number] = _battery_features(connection, battery_id, attributes_of, start, params)
    by_cadence = {}
    for cadence, names in (("reading", READING_FEATURES), ("cycle", CYCLE_FEATURES)):
        parts = [np.empty((0, 1 + len(names))), *(battery[cadence] for battery in batteries)]
        row_ids = np.repeat(list(battery_ids), [len(part) for part in parts[1:]]).tolist()
        table = np.concatenate(parts)
        by_cadence[cadence] = WindowFeatures(names, table[:, 1:], row_ids, table[:, 0])
    return by_cadence


def _battery_features(
    connection: Connection, battery_id: str, battery: Mapping[str, Any], start: datetime, params: DriftParams
) -> dict[str, FloatArray]:
    """By cadence: time (s since the epoch) and features of each row, float64[n, 1 + F]."""
    begin, end = start - _WARM_UP, start + timedelta(seconds=params.window_s)
    states = new_states(1)
    set_battery_from_row(states[0], battery)
    cycles = history.cycles(connection, battery_id, first_reading=begin, until=begin)
    update_from_cycles(states, np.zeros(len(cycles), dtype=np.int64), cycles)
    pages = history.readings(connection, battery_id, READING_INPUTS[1:], end, begin=begin, every_s=_READING_INTERVAL_S)
    readings = np.concatenate([np.empty((0, len(READING_INPUTS))), *pages])
    updates = update_from_readings(states, np.zeros(len(readings), dtype=np.int64), readings)
    time_s = readings[:, 0]
    first_of_tick = np.diff(np.floor(time_s / _ROW_INTERVAL_S), prepend=-np.inf) > 0
    rows = np.flatnonzero(first_of_tick & updates.applied & (time_s >= start.timestamp()))
    closed = updates.closed_table()["reading"].to_numpy()
    sessions = np.flatnonzero(time_s[closed] >= start.timestamp())
    rows, sessions = thinned(rows, params.rows_per_battery), thinned(sessions, params.rows_per_battery)
    return {
        "reading": np.column_stack([time_s[rows], updates.features[rows]]),
        "cycle": np.column_stack([time_s[closed[sessions]], updates.closed_features[sessions]]),
    }


def _values(battery_ids: Sequence[str], values: FloatArray) -> WindowValues:
    battery = np.unique(np.array(battery_ids, dtype=str), return_inverse=True)[1]
    return WindowValues(battery.astype(np.int64), values if len(battery) else np.empty((0, 1)), len(battery))


def _fetch(connection: Connection, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()
