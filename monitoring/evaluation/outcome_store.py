"""SQL of model evaluation: each step is one index-based statement for the whole fleet.

Each method that writes is one transaction that advances its cursor together with its results, so a kill at any time
loses and duplicates nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import psycopg2
import psycopg2.extensions
from psycopg2.extras import execute_values

from features.state import FloatArray
from features.targets import FORECASTS, SLOW_TARGETS, TARGETS
from monitoring.evaluation.observations import HealthReading, Observation, ObservationState
from monitoring.evaluation.outcomes import BatteryHistory, Outcome, StoredPrediction
from telemetry.contract import CYCLE_FIELDS, FAILED_WARNING_LEVEL, READING_FIELDS
from telemetry.stores.connection import StoreConnection
from telemetry.stores.newest import (
    TIME_LIMIT,
    TIME_START,
    newest_cycle,
    newest_outcome,
    newest_prediction,
    newest_reading,
)

Role = Literal["champion", "challenger"]
ROLES: tuple[Role, ...] = ("champion", "challenger")

_LABEL_COLUMNS = tuple(dict.fromkeys(name for target in TARGETS.values() for name in target.label_columns))
#: Key of the advisory lock: one evaluator per database works at a time.
_ADVISORY_LOCK = 7_308_018
#: Event time of predictions that one search for new cycles covers: it bounds the rows that are read.
_PENDING_SPAN = "6 hours"
#: A cursor over predictions without a new cycle is written at most this often.
_PENDING_CURSOR_INTERVAL = "10 minutes"

#: Condition on a cycle: it is of the present pack of its battery, see `EvaluationStore.begin_new_lives`.
_OF_THIS_PACK = "({e}.life_began IS NULL OR {cycle}.end_time > {e}.life_began)"
_NEWEST_CYCLE = newest_cycle(
    "cycle_index, end_time, warning_level", "e.battery_id", _OF_THIS_PACK.format(e="e", cycle="n")
)
_AGE_AT_EVENT = (
    "(SELECT max(c.cycle_index) FROM battery_cycles c WHERE c.battery_id = v.battery_id AND c.end_time <= v.time "
    "AND (e.life_began IS NULL OR c.end_time > e.life_began))"
)

_PREDICTION = (
    "{p}.battery_id, {p}.time, {p}.target, {p}.role, {p}.value, {p}.lower, {p}.upper, {due}, {p}.cycle_index, "
    "{p}.model_name, {p}.model_version"
)


_LIMITS = {field.name: (field.minimum, field.maximum) for field in (*CYCLE_FIELDS, *READING_FIELDS)}


def _valid(column: str, field: str) -> str:
    """SQL: the column within the limits of the contract's `field`; NULL for a value beyond them, NaN or infinity."""
    lower, upper = _LIMITS[field]
    return f"CASE WHEN {column} BETWEEN {lower} AND {upper} THEN {column} END"


def _since(cursor: str) -> str:
    """SQL: the time of a cursor; the beginning if there is none, or if it was set to a time that has not come yet."""
    return f"COALESCE(CASE WHEN {cursor} <= {TIME_LIMIT} THEN {cursor} END, {TIME_START})"


def _age(prediction: str) -> str:
    """Age at a prediction: its own, else the one that the pack reported with the reading, as in the battery state."""
    reported = (
        f"(SELECT {_valid('charge_cycles', 'charge_cycles')} FROM ev_telemetry t "  # noqa: S608 - constant text
        f"WHERE t.battery_id = {prediction}.battery_id AND t.time = {prediction}.time)"
    )
    return f"COALESCE({_valid(f'{prediction}.cycle_index', 'cycle_index')}, {reported}) AS cycle_index"


@dataclass(frozen=True)
class NewReadings:
    """Readings of one battery that are not yet observed, and the state of its observation.

    Attributes:
        readings: those whose age is known.
        until: time of the last one, with or without an age.
    """

    battery_id: str
    observed: ObservationState
    readings: list[HealthReading]
    until: datetime


@dataclass(frozen=True)
class DueForecast:
    """First prediction time of a battery in a comparison interval whose forecasts are all due.

    Attributes:
        predictions: the forecasts made at `time`, if any.
    """

    battery_id: str
    time: datetime
    predictions: list[StoredPrediction]


class EvaluationStore(StoreConnection):
    """Database connection of the evaluator, with its advisory lock.

    Args:
        max_future_s: as in `StoreConnection`.  No cursor moves past this limit: later readings would never be observed.
    """

    def __init__(self, dsn: str, max_future_s: float | None = None) -> None:
        super().__init__(dsn, "battery-twin-evaluation", advisory_lock=_ADVISORY_LOCK, max_future_s=max_future_s)

    # Replaced packs

    def begin_new_lives(self) -> int:
        """Forget what was observed of packs that were replaced since, also if it was entered late; returns how many.

        Their pending predictions get no label.  The readings since the replacement are observed again.
        """
        with self.transaction() as cursor:
            cursor.execute(
                """
                WITH newest AS (
                    SELECT battery_id, max(time) AS began FROM battery_events WHERE event = 'replaced' GROUP BY 1
                ), new AS (
                    INSERT INTO evaluation_batteries AS e (battery_id, life_began, observed_until)
                    SELECT battery_id, began, began - interval '1 microsecond' FROM newest
                    ON CONFLICT (battery_id) DO UPDATE
                    SET life_began = EXCLUDED.life_began, observed_until = EXCLUDED.observed_until, cycle_index = NULL,
                        soh_cycle = NULL, soh = NULL, alarm_level = 0, watched = false, newest_cycle = NULL,
                        has_news = true
                    WHERE e.life_began IS DISTINCT FROM EXCLUDED.life_began
                    RETURNING battery_id, life_began
                ), observed AS (
                    DELETE FROM battery_observations o USING new WHERE o.battery_id = new.battery_id
                ), pending AS (
                    DELETE FROM kept_predictions k USING new WHERE k.battery_id = new.battery_id
                )
                INSERT INTO evaluation_roles AS r (battery_id, role, kept_until)
                SELECT battery_id, role, life_began - interval '1 microsecond' FROM new CROSS JOIN unnest(%s) AS role
                ON CONFLICT (battery_id, role) DO UPDATE SET kept_until = EXCLUDED.kept_until, kept_cycle = NULL
                """,
                (list(ROLES),),
            )
            return int(cursor.rowcount) // len(ROLES)

    # Observations

    def new_readings(self, rows: int) -> list[NewReadings]:
        """Readings that are not yet observed, at most about `rows`, each battery's oldest first.

        A reading without an age waits for its prediction, which has one, and so do the readings after it.
        """
        with self.transaction() as cursor:
            cursor.execute("SELECT count(*) FROM batteries")
            (batteries,) = cursor.fetchone() or (0,)
            cursor.execute(
                f"""
                SELECT b.battery_id, e.observed_until, e.cycle_index, e.soh_cycle, e.soh, e.alarm_level,
                       e.watched, t.charge_cycles IS NULL AND t.time > COALESCE(predicted.time, {TIME_START}),
                       t.time, COALESCE(p.cycle_index, t.charge_cycles), {_valid("t.soh", "soh")},
                       {_valid("t.warning_level", "warning_level")}
                FROM batteries b
                LEFT JOIN evaluation_batteries e USING (battery_id)
                LEFT JOIN LATERAL {newest_prediction()} predicted ON true
                CROSS JOIN LATERAL (
                    SELECT time, {_valid("charge_cycles", "charge_cycles")} AS charge_cycles FROM ev_telemetry t
                    WHERE t.battery_id = b.battery_id AND t.voltage IS NOT NULL
                      AND t.time > {_since("e.observed_until")} AND t.time <= {TIME_LIMIT}
                    ORDER BY t.time LIMIT 1
                ) first
                CROSS JOIN LATERAL (
                    SELECT time, soh, warning_level, {_valid("charge_cycles", "charge_cycles")} AS charge_cycles
                    FROM ev_telemetry t
                    WHERE t.battery_id = b.battery_id AND t.voltage IS NOT NULL AND t.time >= first.time
                      AND t.time <= {TIME_LIMIT}
                      AND (first.charge_cycles IS NOT NULL OR first.time <= predicted.time)  -- else wait
                    ORDER BY t.time LIMIT %s
                ) t
                LEFT JOIN LATERAL (
                    SELECT {_valid("cycle_index", "cycle_index")} AS cycle_index FROM battery_predictions p
                    WHERE p.battery_id = b.battery_id AND p.time = t.time AND p.role = 'champion' LIMIT 1
                ) p ON true
                ORDER BY b.battery_id, t.time
                """,  # noqa: S608 - constant text
                (max(rows // max(batteries, 1), 50),),
            )
            return list(_by_battery(cursor.fetchall()))

    def write_observations(self, observed: Sequence[tuple[str, ObservationState, Sequence[Observation]]]) -> None:
        """Store the states and observations of batteries; sets the dirty flag of those with observations."""
        newest = {
            (battery_id, one.cycle, one.kind): one for battery_id, _, observations in observed for one in observations
        }  # one statement may write a row once
        with self.transaction() as cursor:
            execute_values(
                cursor,
                "INSERT INTO battery_observations (battery_id, cycle, kind, cycle_index, time, soh, soh_before, "
                "warning_level) "
                "VALUES %s ON CONFLICT (battery_id, cycle, kind) DO UPDATE SET cycle_index = EXCLUDED.cycle_index, "
                "time = EXCLUDED.time, soh = EXCLUDED.soh, soh_before = EXCLUDED.soh_before, "
                "warning_level = EXCLUDED.warning_level",
                [
                    (*key, (r := one.reading).cycle_index, r.time, r.soh, one.soh_before, r.warning_level)
                    for key, one in newest.items()
                ],
            )
            execute_values(
                cursor,
                "INSERT INTO evaluation_batteries (battery_id, observed_until, cycle_index, soh_cycle, soh, "
                "alarm_level, watched, has_news) VALUES %s "
                "ON CONFLICT (battery_id) DO UPDATE SET observed_until = EXCLUDED.observed_until, "
                "cycle_index = EXCLUDED.cycle_index, soh_cycle = EXCLUDED.soh_cycle, "
                "soh = EXCLUDED.soh, alarm_level = EXCLUDED.alarm_level, "
                "watched = EXCLUDED.watched, has_news = evaluation_batteries.has_news OR EXCLUDED.has_news",
                [
                    (
                        battery_id,
                        state.until,
                        state.cycle_index,
                        state.soh_cycle,
                        state.soh,
                        state.alarm_level,
                        state.watched,
                        bool(observations),
                    )
                    for battery_id, state, observations in observed
                ],
            )

    def flag_new_cycles(self) -> int:
        """Set the dirty flag of each battery with a newer row in `battery_cycles`; returns how many."""
        with self.transaction() as cursor:
            cursor.execute(
                f"""
                INSERT INTO evaluation_batteries AS e (battery_id, newest_cycle, has_news)
                SELECT b.battery_id, c.cycle_index, true
                FROM batteries b
                LEFT JOIN evaluation_batteries old USING (battery_id)
                CROSS JOIN LATERAL {newest_cycle("cycle_index", condition=_OF_THIS_PACK.format(e="old", cycle="n"))} c
                WHERE c.cycle_index IS DISTINCT FROM old.newest_cycle
                ON CONFLICT (battery_id) DO UPDATE SET newest_cycle = EXCLUDED.newest_cycle, has_news = true
                """  # noqa: S608 - constant text
            )
            return int(cursor.rowcount)

    # Pending labels of the slow targets

    def store_pending_labels(self, role: Role) -> bool:
        """Store the first prediction of each new whole cycle in `kept_predictions`; True while more may remain.

        Predictions without an age are skipped: they cannot be labelled.
        """
        is_new = f"n.time > {_since('r.kept_until')}"
        columns = f"time, {_age('n')}"
        with self.transaction() as cursor:
            cursor.execute(
                f"""
                SELECT b.battery_id, r.kept_until, first.time, newest.time,
                       COALESCE(floor(newest.cycle_index) > COALESCE(r.kept_cycle, -1), false),
                       LEAST(newest.time, first.time + interval '{_PENDING_SPAN}'),
                       newest.time > {_since("r.kept_until")} + interval '{_PENDING_CURSOR_INTERVAL}'
                FROM batteries b
                LEFT JOIN evaluation_roles r ON r.battery_id = b.battery_id AND r.role = '{role}'
                CROSS JOIN LATERAL {newest_prediction(is_new, columns=columns, role=f"'{role}'")} newest
                CROSS JOIN LATERAL (
                    SELECT time FROM battery_predictions p
                    WHERE p.battery_id = b.battery_id AND p.role = '{role}'
                      AND p.time > {_since("r.kept_until")}
                    ORDER BY p.time LIMIT 1
                ) first
                """  # noqa: S608 - constant text
            )
            new_cycles: list[tuple[str, datetime, datetime]] = []
            skipped: list[tuple[str, datetime]] = []
            more = False
            for battery_id, _, first, newest, is_new_cycle, until, is_far in cursor.fetchall():
                if is_new_cycle:
                    new_cycles.append((battery_id, first, until))
                    more = more or until < newest
                elif is_far:
                    skipped.append((battery_id, newest))
            if new_cycles:
                self._store_new_cycles(cursor, role, new_cycles)
            if skipped:
                execute_values(
                    cursor,
                    "INSERT INTO evaluation_roles (battery_id, role, kept_until) VALUES %s "
                    "ON CONFLICT (battery_id, role) DO UPDATE SET kept_until = EXCLUDED.kept_until",
                    [(battery_id, role, newest) for battery_id, newest in skipped],
                )
            return more

    def _store_new_cycles(
        self, cursor: psycopg2.extensions.cursor, role: Role, new_cycles: Sequence[tuple[str, datetime, datetime]]
    ) -> None:
        battery_ids, since, until = (list(column) for column in zip(*new_cycles, strict=True))
        cursor.execute(
            f"""
            WITH span AS (
                SELECT * FROM unnest(%(ids)s::text[], %(since)s::timestamptz[], %(until)s::timestamptz[])
                AS s (battery_id, since, until)
            ), pending AS (
                INSERT INTO kept_predictions (battery_id, cycle, target, role, time, value, lower, upper, cycle_index,
                                              model_name, model_version)
                SELECT DISTINCT ON (p.battery_id, p.target, floor(p.cycle_index))
                       p.battery_id, floor(p.cycle_index), p.target, p.role, p.time, p.value, p.lower, p.upper,
                       p.cycle_index, p.model_name, p.model_version
                FROM span s
                CROSS JOIN LATERAL (
                    SELECT p.target, p.role, p.time, p.value, p.lower, p.upper, p.model_name, p.model_version,
                           p.battery_id, {_age("p")}
                    FROM battery_predictions p
                    WHERE p.battery_id = s.battery_id AND p.time BETWEEN s.since AND s.until
                      AND p.role = %(role)s AND p.target = ANY(%(targets)s)
                    OFFSET 0  -- else the planner hashes the whole table when there are many batteries
                ) p
                WHERE p.cycle_index IS NOT NULL AND abs(p.value) < 'Infinity'
                ORDER BY p.battery_id, p.target, floor(p.cycle_index), p.time
                ON CONFLICT (battery_id, target, role, cycle) DO NOTHING
                RETURNING battery_id
            ), dirty AS (
                INSERT INTO evaluation_batteries (battery_id, has_news) SELECT DISTINCT battery_id, true FROM pending
                ON CONFLICT (battery_id) DO UPDATE SET has_news = true
            )
            INSERT INTO evaluation_roles AS r (battery_id, role, kept_until, kept_cycle)
            SELECT s.battery_id, %(role)s, s.until, floor(newest.cycle_index)
            FROM span s
            LEFT JOIN LATERAL (
                SELECT {_age("p")} FROM battery_predictions p
                WHERE p.battery_id = s.battery_id AND p.time = s.until AND p.role = %(role)s LIMIT 1
            ) newest ON true
            ON CONFLICT (battery_id, role) DO UPDATE
            SET kept_until = EXCLUDED.kept_until, kept_cycle = COALESCE(EXCLUDED.kept_cycle, r.kept_cycle)
            """,  # noqa: S608 - constant text
            {"ids": battery_ids, "since": since, "until": until, "role": role, "targets": list(SLOW_TARGETS)},
        )

    # Evaluation of the slow targets

    def dirty_batteries(self, count: int, after: str = "") -> list[str]:
        """Up to `count` batteries with new information since their last evaluation.

        Args:
            after: start behind this battery (round robin), so that waiting batteries do not starve the others.
        """
        with self.transaction() as cursor:
            cursor.execute(
                "SELECT battery_id FROM evaluation_batteries WHERE has_news "
                "ORDER BY battery_id <= %s, battery_id LIMIT %s",
                (after, count),
            )
            return [battery_id for (battery_id,) in cursor.fetchall()]

    def battery_history(self, battery_id: str) -> BatteryHistory | None:
        """Health measurements and warnings of the battery; None without any."""
        with self.transaction() as cursor:
            cursor.execute(
                f"""
                SELECT h.cycle_index, h.health FROM (
                    SELECT cycle_index, soh / 100.0 AS health, time, 1 AS tie_order FROM battery_observations
                    WHERE battery_id = %(id)s AND kind <> 'alarm'
                    UNION ALL
                    SELECT cycle_index, soh_before / 100.0, time, 0 FROM battery_observations
                    WHERE battery_id = %(id)s AND kind = 'change'
                    UNION ALL
                    SELECT c.cycle_index, COALESCE(c.capacity_ah / NULLIF(b.nominal_capacity_ah, 0), c.soh / 100.0),
                           c.end_time, 1
                    FROM battery_cycles c JOIN batteries b USING (battery_id)
                    LEFT JOIN evaluation_batteries e USING (battery_id)
                    WHERE c.battery_id = %(id)s AND {_OF_THIS_PACK.format(e="e", cycle="c")}
                    UNION ALL
                    SELECT {_AGE_AT_EVENT}, v.value / NULLIF(b.nominal_capacity_ah, 0), v.time, 1
                    FROM battery_events v JOIN batteries b USING (battery_id)
                    LEFT JOIN evaluation_batteries e USING (battery_id)
                    WHERE v.battery_id = %(id)s AND v.event = 'capacity_test'
                      AND (e.life_began IS NULL OR v.time > e.life_began)
                ) h WHERE abs(h.health) < 'Infinity' AND h.cycle_index < 'Infinity'
                ORDER BY h.cycle_index, h.time, h.tie_order
                """,  # noqa: S608 - constant text
                {"id": battery_id},
            )
            health = cursor.fetchall()
            cursor.execute(
                f"""
                SELECT cycle_index, warning_level FROM (
                    SELECT cycle_index, warning_level FROM battery_observations
                    WHERE battery_id = %(id)s AND kind = 'alarm'
                    UNION ALL
                    SELECT c.cycle_index, c.warning_level FROM battery_cycles c
                    LEFT JOIN evaluation_batteries e USING (battery_id)
                    WHERE c.battery_id = %(id)s AND c.warning_level > 0 AND c.warning_level < 'Infinity'
                      AND {_OF_THIS_PACK.format(e="e", cycle="c")}
                    UNION ALL
                    SELECT {_AGE_AT_EVENT}, {FAILED_WARNING_LEVEL} FROM battery_events v
                    LEFT JOIN evaluation_batteries e USING (battery_id)
                    WHERE v.battery_id = %(id)s AND v.event = 'failed'
                      AND (e.life_began IS NULL OR v.time > e.life_began)
                ) a WHERE cycle_index IS NOT NULL ORDER BY cycle_index
                """,  # noqa: S608 - constant text
                {"id": battery_id},
            )
            alarms = cursor.fetchall()
            cursor.execute(
                f"""
                SELECT GREATEST(e.cycle_index, c.cycle_index), e.watched,
                       GREATEST(e.observed_until, CASE WHEN c.end_time <= {TIME_LIMIT} THEN c.end_time END),
                       c.warning_level IS NOT NULL
                FROM evaluation_batteries e
                LEFT JOIN LATERAL {_NEWEST_CYCLE} c ON true
                WHERE e.battery_id = %s
                """,  # noqa: S608 - constant text
                (battery_id,),
            )
            row = cursor.fetchone()
            cursor.execute(
                f"SELECT c.cycle_index{''.join(f', c.{name}' for name in _LABEL_COLUMNS)} FROM battery_cycles c "  # noqa: S608
                "LEFT JOIN evaluation_batteries e USING (battery_id) "
                f"WHERE c.battery_id = %s AND %s AND {_OF_THIS_PACK.format(e='e', cycle='c')} ORDER BY c.cycle_index",
                (battery_id, bool(_LABEL_COLUMNS)),
            )
            cycle_index, *cycle_columns = _columns(cursor.fetchall(), 1 + len(_LABEL_COLUMNS))
        if row is None or row[0] is None or row[2] is None:
            return None
        last_cycle, watched, known_at, cycles_have_warnings = row
        cycles, levels = _columns(health, 2)
        alarm_cycles, alarm_levels = _columns(alarms, 2)
        return BatteryHistory(
            health_cycles=cycles,
            health=levels,
            alarm_cycles=alarm_cycles,
            alarm_levels=alarm_levels,
            last_cycle=last_cycle,
            watched=watched or cycles_have_warnings or bool(health),
            cycle_index=cycle_index,
            cycles=dict(zip(_LABEL_COLUMNS, cycle_columns, strict=True)),
            known_at=known_at,
        )

    def pending_labels(self, battery_id: str) -> list[StoredPrediction]:
        """All rows of the battery in `kept_predictions`."""
        with self.transaction() as cursor:
            columns = _PREDICTION.format(p="k", due="NULL")
            cursor.execute(f"SELECT {columns} FROM kept_predictions k WHERE battery_id = %s", (battery_id,))  # noqa: S608
            return [StoredPrediction(*row) for row in cursor.fetchall()]

    def write_labels(
        self, battery_id: str, outcomes: Sequence[Outcome], pending: Sequence[StoredPrediction], done: bool
    ) -> int:
        """Store `outcomes`, delete earlier outcomes of `pending` ones; returns the number of new or changed rows.

        Args:
            done: clear the dirty flag: no prediction waits for its definitions.
        """
        with self.transaction() as cursor:
            changed = _write_outcomes(cursor, outcomes)
            if pending:
                cursor.execute(
                    "DELETE FROM prediction_outcomes o "
                    "USING unnest(%s::text[], %s::text[], %s::timestamptz[]) AS u (target, role, time) "
                    "WHERE o.battery_id = %s AND o.target = u.target AND o.role = u.role AND o.time = u.time",
                    (
                        [one.target for one in pending],
                        [one.role for one in pending],
                        [one.time for one in pending],
                        battery_id,
                    ),
                )
            if done:
                cursor.execute("UPDATE evaluation_batteries SET has_news = false WHERE battery_id = %s", (battery_id,))
            return changed

    # Evaluation of the forecasts

    def due_forecasts(self, role: Role, every_s: float, count: int, after: str = "") -> list[DueForecast]:
        """Of up to `count` batteries the next due forecasts: the first in their interval of `every_s`.

        Args:
            after: as in `dirty_batteries`.
        """
        columns = _PREDICTION.format(p="p", due="p.due")
        with self.transaction() as cursor:
            cursor.execute(
                f"""
                SELECT d.battery_id, d.time, {columns} FROM (
                    SELECT b.battery_id, first.time
                    FROM batteries b
                    LEFT JOIN evaluation_roles r ON r.battery_id = b.battery_id AND r.role = '{role}'
                    CROSS JOIN LATERAL (
                        SELECT time FROM battery_predictions p
                        WHERE p.battery_id = b.battery_id AND p.role = '{role}'
                          AND p.time >= {_since("r.compared_until")}
                        ORDER BY p.time LIMIT 1
                    ) first
                    CROSS JOIN LATERAL (
                        SELECT max(due) AS due FROM battery_predictions p
                        WHERE p.battery_id = b.battery_id AND p.time = first.time AND p.target = ANY(%(targets)s)
                          AND p.role = '{role}'
                    ) last
                    CROSS JOIN LATERAL {newest_reading(columns="time")} reading
                    WHERE reading.time >= COALESCE(last.due, first.time + make_interval(secs => %(every_s)s))
                    ORDER BY b.battery_id <= %(after)s, b.battery_id LIMIT %(count)s
                ) d
                LEFT JOIN LATERAL (
                    SELECT * FROM battery_predictions p
                    WHERE p.battery_id = d.battery_id AND p.time = d.time AND p.target = ANY(%(targets)s)
                      AND p.role = '{role}' OFFSET 0
                ) p ON true
                ORDER BY d.battery_id <= %(after)s, d.battery_id
                """,  # noqa: S608 - constant text
                {"every_s": every_s, "after": after, "count": count, "targets": list(FORECASTS)},
            )
            return [
                DueForecast(battery_id, time, [StoredPrediction(*row[2:]) for row in rows if row[2] is not None])
                for (battery_id, time), rows in groupby(cursor.fetchall(), key=itemgetter(0, 1))
            ]

    def readings_until_due(
        self, predictions: Sequence[StoredPrediction], tolerance_s: float
    ) -> Mapping[int, tuple[FloatArray, FloatArray]]:
        """By index of the prediction: time (s since the epoch) and the target's signal until its `due` + tolerance."""
        if not predictions:
            return {}
        signals = sorted({str(TARGETS[one.target].signal) for one in predictions})
        with self.transaction() as cursor:
            cursor.execute(
                f"""
                SELECT w.number, extract(epoch FROM t.time)::float8, {", ".join(f"t.{signal}" for signal in signals)}
                FROM unnest(%(ids)s::text[], %(since)s::timestamptz[], %(until)s::timestamptz[]) WITH ORDINALITY
                    AS w (battery_id, since, until, number)
                CROSS JOIN LATERAL (
                    SELECT * FROM ev_telemetry t
                    WHERE t.battery_id = w.battery_id AND t.voltage IS NOT NULL
                      AND t.time BETWEEN w.since AND w.until + make_interval(secs => %(tolerance)s) OFFSET 0
                ) t
                ORDER BY w.number, t.time
                """,  # noqa: S608 - names of columns
                {
                    "ids": [one.battery_id for one in predictions],
                    "since": [one.time for one in predictions],
                    "until": [one.due or one.time for one in predictions],
                    "tolerance": tolerance_s,
                },
            )
            rows = np.array(cursor.fetchall(), dtype=float).reshape(-1, 2 + len(signals))
        numbers = rows[:, 0].astype(int) - 1
        column = [2 + signals.index(str(TARGETS[one.target].signal)) for one in predictions]
        return {int(i): (rows[numbers == i, 1], rows[numbers == i, column[i]]) for i in np.unique(numbers)}

    def write_forecast_outcomes(
        self, role: Role, until: Sequence[tuple[str, datetime]], outcomes: Sequence[Outcome]
    ) -> int:
        """Store `outcomes` and advance the cursors to `until`; returns the number of new or changed rows."""
        with self.transaction() as cursor:
            changed = _write_outcomes(cursor, outcomes)
            if until:
                execute_values(
                    cursor,
                    "INSERT INTO evaluation_roles (battery_id, role, compared_until) VALUES %s "
                    "ON CONFLICT (battery_id, role) DO UPDATE SET compared_until = EXCLUDED.compared_until",
                    [(battery_id, role, time) for battery_id, time in until],
                )
            return changed

    def delete_expired(self, target: str, days: float, rows: int) -> int:
        """Delete up to `rows` outcomes of `target` more than `days` before the battery's newest; returns how many.

        Measured in the battery's event time, so that a replayed history keeps its last month.
        """
        with self.transaction() as cursor:
            cursor.execute(
                f"""
                DELETE FROM prediction_outcomes WHERE ctid = ANY(ARRAY(
                    SELECT old.ctid
                    FROM batteries b CROSS JOIN unnest(%(roles)s::text[]) AS r (role)
                    CROSS JOIN LATERAL {newest_outcome("%(target)s", columns="time", role="r.role")} newest
                    CROSS JOIN LATERAL (
                        SELECT ctid FROM prediction_outcomes o
                        WHERE o.battery_id = b.battery_id AND o.target = %(target)s AND o.role = r.role
                          AND o.time < newest.time - make_interval(days => %(days)s)
                        LIMIT %(rows)s
                    ) old
                    LIMIT %(rows)s
                ))
                """,  # noqa: S608 - constant text
                {"roles": list(ROLES), "target": target, "days": int(days), "rows": rows},
            )
            return int(cursor.rowcount)


def _by_battery(rows: Sequence[tuple[Any, ...]]) -> Iterator[NewReadings]:
    for battery_id, group in groupby(rows, key=itemgetter(0)):
        battery_rows = list(takewhile(lambda row: not row[7], group))
        _, until, cycle_index, soh_cycle, soh, alarm, watched = battery_rows[0][:7]
        observed = ObservationState(until, cycle_index, soh_cycle, soh, alarm or 0.0, bool(watched))
        readings = [HealthReading(*row[8:]) for row in battery_rows if row[9] is not None]
        yield NewReadings(battery_id, observed, readings, battery_rows[-1][8])


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> tuple[FloatArray, ...]:
    table = np.array([row[:count] for row in rows], dtype=float).reshape(-1, count)
    return tuple(table.T)


def _write_outcomes(cursor: psycopg2.extensions.cursor, outcomes: Sequence[Outcome]) -> int:
    if not outcomes:
        return 0
    execute_values(
        cursor,
        "INSERT INTO prediction_outcomes AS o (battery_id, time, target, role, model_name, model_version, value, "
        "lower, upper, actual, error, cycle_index, due, matured_at) VALUES %s "
        "ON CONFLICT (battery_id, target, role, time) DO UPDATE "
        "SET actual = EXCLUDED.actual, error = EXCLUDED.error, matured_at = EXCLUDED.matured_at "
        "WHERE o.actual IS DISTINCT FROM EXCLUDED.actual",
        [
            (
                (p := one.prediction).battery_id,
                p.time,
                p.target,
                p.role,
                p.model_name,
                p.model_version,
                p.value,
                p.lower,
                p.upper,
                one.actual,
                one.error,
                p.cycle_index,
                p.due or one.matured_at,
                one.matured_at,
            )
            for one in outcomes
        ],
        page_size=max(len(outcomes), 1),
    )
    return int(cursor.rowcount)
