"""What the store holds of an interval of event time: what was seen, said and got wrong.  Bounded, and the same again.

Features are not stored, so a sample of the batteries is folded again from its readings: thinned, which the fold bears,
and from half a day before the window on, in which what it remembers of readings is forgotten.  What is older comes from
`battery_cycles`.  Rows are taken at the moments at which training takes them, and so are predictions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg2.extensions

from features.state import READING_INPUTS, FloatArray, new_states, set_battery
from features.state_update import CYCLE_FEATURES, READING_FEATURES, IntArray, update_from_cycles, update_from_readings
from features.table import LabelParams
from features.targets import TARGETS
from monitoring.drift.bounds import thinned
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import MonitoredModel
from monitoring.latest_predictions import LATEST_CHAMPION_PREDICTIONS
from telemetry.chemistries import CHEMISTRY_NAMES
from telemetry.stores import history

Connection = psycopg2.extensions.connection

#: Training takes one reading of a battery in so many seconds; so does this.
_ROW_INTERVAL_S = LabelParams.temperature_every_s
#: At most one reading of a battery in so many seconds is folded.
_READING_INTERVAL_S = 10.0
#: Longer than a charge overnight and many times the time constants of the fold.
_WARM_UP = timedelta(hours=12)


@dataclass(frozen=True)
class WindowValues:
    """Rows of one kind and window.

    Attributes:
        battery: int64[n], number of each row's battery, from 0, none left out.
        values: float64[n, F].
        samples: how many values were looked at; more than n where a row sums up several.
    """

    battery: IntArray
    values: FloatArray
    samples: int

    @property
    def batteries(self) -> int:
        """How many there are."""
        return len(np.unique(self.battery))

    def counts(self, params: DriftParams) -> bool:
        """Whether they are enough to say something."""
        return self.samples >= params.min_rows and self.batteries >= params.min_batteries


@dataclass(frozen=True)
class WindowFeatures:
    """What models of one cadence may have seen, at moments of some batteries.

    Attributes:
        names: of the F features.
        features: float64[n, F], NaN where missing.
        battery_ids: n of them, each battery's together.
        time_s: float64[n], s since the epoch.
    """

    names: tuple[str, ...]
    features: FloatArray
    battery_ids: Sequence[str]
    time_s: FloatArray

    def of(self, names: Sequence[str]) -> WindowValues:
        """The features `names`, in that order; one that this version does not know is missing."""
        values = np.full((len(self.features), len(names)), np.nan)
        for place, name in enumerate(names):
            if name in self.names:
                values[:, place] = self.features[:, self.names.index(name)]
        return _values(self.battery_ids, values)


def clock(connection: Connection, batteries: int) -> datetime | None:
    """Event time that so many batteries have reached: one that is ahead of its time moves nothing.  None: too few."""
    rows = _fetch(
        connection,
        "SELECT t.time FROM batteries b CROSS JOIN LATERAL (SELECT time FROM ev_telemetry t "
        "WHERE t.battery_id = b.battery_id AND t.voltage IS NOT NULL ORDER BY t.time DESC LIMIT 1) t "
        "ORDER BY t.time DESC OFFSET %s LIMIT 1",
        (batteries - 1,),
    )
    return rows[0][0] if rows else None


def champions(connection: Connection) -> dict[str, tuple[str, str]]:
    """Name and version of the model that made the newest champion prediction, by target."""
    rows = _fetch(
        connection,
        f"""
        SELECT DISTINCT ON (p.target) p.target, p.model_name, p.model_version
        FROM {LATEST_CHAMPION_PREDICTIONS}
        WHERE p.model_name <> '' AND p.model_version <> ''
        ORDER BY p.target, p.predicted_at DESC, p.time DESC
        """,  # noqa: S608 - a text of our own
    )
    return {target: (name, version) for target, name, version in rows if target in TARGETS}


def sample(connection: Connection, start: datetime, end: datetime, count: int) -> list[str]:
    """Up to `count` of the batteries with readings in the window, as far as possible the same in every window."""
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
    """Begin of the first window since `begin` from which on `model` alone predicted, as `battery_ids` tell.

    Args:
        begin: begin of a window.
        until: the clock.
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
    for start, is_alone in rows:
        if not is_alone:
            break
        first = start
    return first


def window_start(time: datetime, params: DriftParams) -> datetime:
    """Begin of the window that holds `time`; windows are counted from 1970, so that everybody has the same."""
    return datetime.fromtimestamp(time.timestamp() // params.window_s * params.window_s, UTC)


def predictions(connection: Connection, champion: MonitoredModel, moments: WindowFeatures) -> WindowValues:
    """What `champion` said at `moments`, or soon after, where it did not predict from every reading."""
    rows = _fetch(
        connection,
        """
        SELECT m.battery_id, p.value
        FROM unnest(%(ids)s::text[], %(times)s::float8[]) WITH ORDINALITY m (battery_id, time_s, number)
        CROSS JOIN LATERAL (
            SELECT value FROM battery_predictions p
            WHERE p.battery_id = m.battery_id AND p.target = %(target)s AND p.role = 'champion'
              AND p.model_name = %(name)s AND p.model_version = %(version)s
              AND p.time >= to_timestamp(m.time_s) AND p.time < to_timestamp(m.time_s + %(soon_s)s)
            ORDER BY p.time LIMIT 1
        ) p
        ORDER BY m.number
        """,
        {
            "ids": list(moments.battery_ids),
            "times": moments.time_s.tolist(),
            "target": champion.target,
            "name": champion.model_name,
            "version": champion.model_version,
            "soon_s": _ROW_INTERVAL_S,
        },
    )
    return _values([battery_id for battery_id, _ in rows], np.array([[value] for _, value in rows]))


def errors(connection: Connection, champion: MonitoredModel, start: datetime, end: datetime) -> WindowValues:
    """How wrong `champion` was, as far as it was known in the window: mean absolute error of each battery."""
    rows = _fetch(
        connection,
        "SELECT battery_id, avg(abs(error)), count(*) FROM prediction_outcomes "
        "WHERE target = %s AND role = 'champion' AND matured_at >= %s AND matured_at < %s "
        "AND model_name = %s AND model_version = %s GROUP BY battery_id",
        (champion.target, start, end, champion.model_name, champion.model_version),
    )
    values = _values([row[0] for row in rows], np.array([[row[1]] for row in rows]))
    return replace(values, samples=sum(int(row[2]) for row in rows))


def moments(
    connection: Connection, battery_ids: Sequence[str], start: datetime, params: DriftParams
) -> dict[str, WindowFeatures]:
    """What models may have seen in the window from `start` on, by cadence; at most `rows_per_battery` of a battery."""
    known = history.batteries(connection, battery_ids)
    folds = [_fold(connection, one, known.get(one, {}), start, params) for one in battery_ids]
    found = {}
    for cadence, names in (("reading", READING_FEATURES), ("cycle", CYCLE_FEATURES)):
        parts = [np.empty((0, 1 + len(names))), *(fold[cadence] for fold in folds)]
        owners = np.repeat(list(battery_ids), [len(part) for part in parts[1:]]).tolist()
        table = np.concatenate(parts)
        found[cadence] = WindowFeatures(names, table[:, 1:], owners, table[:, 0])
    return found


def _fold(
    connection: Connection, battery_id: str, battery: Mapping[str, Any], start: datetime, params: DriftParams
) -> dict[str, FloatArray]:
    begin, end = start - _WARM_UP, start + timedelta(seconds=params.window_s)
    states = new_states(1)
    chemistry = str(battery.get("chemistry") or "").upper()
    set_battery(
        states[0],
        nominal_capacity_ah=battery.get("nominal_capacity_ah"),
        cells_in_series=battery.get("cells_in_series"),
        chemistry=chemistry if chemistry in CHEMISTRY_NAMES else None,
    )
    cycles = history.cycles(connection, battery_id, first_reading=begin, until=begin)
    update_from_cycles(states, np.zeros(len(cycles), dtype=np.int64), cycles)
    pages = history.readings(connection, battery_id, READING_INPUTS[1:], end, begin=begin, every_s=_READING_INTERVAL_S)
    readings = np.concatenate([np.empty((0, len(READING_INPUTS))), *pages])
    folded = update_from_readings(states, np.zeros(len(readings), dtype=np.int64), readings)
    time_s = readings[:, 0]
    first_of_tick = np.diff(np.floor(time_s / _ROW_INTERVAL_S), prepend=-np.inf) > 0
    seen = np.flatnonzero(first_of_tick & folded.applied & (time_s >= start.timestamp()))
    closed = folded.closed_table()["reading"].to_numpy()
    ended = np.flatnonzero(time_s[closed] >= start.timestamp())
    seen, ended = thinned(seen, params.rows_per_battery), thinned(ended, params.rows_per_battery)
    return {
        "reading": np.column_stack([time_s[seen], folded.features[seen]]),
        "cycle": np.column_stack([time_s[closed[ended]], folded.closed_features[ended]]),
    }


def _values(battery_ids: Sequence[str], values: FloatArray) -> WindowValues:
    battery = np.unique(np.array(battery_ids, dtype=str), return_inverse=True)[1]
    return WindowValues(battery.astype(np.int64), values if len(battery) else np.empty((0, 1)), len(battery))


def _fetch(connection: Connection, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()
