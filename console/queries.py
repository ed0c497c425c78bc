"""Read-only SQL queries of the console against the telemetry store, each answered from an index.

The cost of each is bounded independently of the size of the tables: at most one index probe per battery and column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import cast

from console.alerts.rules import RULES
from console.changes import FleetChanges, read_changes
from console.connection_pool import Database, StoreRow, is_finite
from features.targets import FORECASTS, TARGET_NAMES, TARGETS
from monitoring.latest_predictions import PREDICTION_VALID_FOR
from telemetry.contract import BATTERY_FIELDS, READING_FIELDS, names
from telemetry.stores.newest import newest_outcome, newest_reading, newest_rows

#: Number of newest rows of `battery_predictions` that are searched for the newest one of each target and role: a target
#: may be withheld for a while, and a challenger writes as many rows as the champion.
_NEWEST_PREDICTIONS = 8 * len(TARGET_NAMES)
#: Maximum distance between the due time of a forecast and the reading that it is compared with, as in
#: `monitoring`.
_DUE_TOLERANCE = timedelta(seconds=30)

#: SQL condition per target: a forecast is valid until it is due.
_VALID_AT_READING = dict.fromkeys(TARGET_NAMES, "") | dict.fromkeys(FORECASTS, " AND COALESCE(due > l.time, true)")

_DATA_SHEET = ", ".join(f"b.{name}" for name in names(BATTERY_FIELDS) if name != "battery_id")

#: Subquery: newest reading of battery `b`.
_NEWEST_READING = newest_reading()


def _newest_predictions(columns: Sequence[str], wanted: str = "true") -> str:
    """Subquery: the champion's newest valid prediction of each target (value, lower, ...) for reading `l` of `b`.

    Where the condition `wanted` is false for the reading, all columns are NULL.  `array_agg` takes the rows in index
    order, newest first.
    """
    values = ", ".join(
        f"(array_agg({column}) FILTER (WHERE target = '{target}'{_VALID_AT_READING[target]}))[1] AS {target}_{column}"
        for target in TARGET_NAMES
        for column in columns
    )
    valid = "n.role = 'champion' AND n.time > COALESCE(l.time, now()) - %(hold)s"
    newest = newest_rows("battery_predictions", f"{valid} AND {wanted}", rows=str(len(TARGET_NAMES)))
    return f"(SELECT {values}, max(predicted_at) AS predicted_at FROM {newest} newest)"  # noqa: S608 - constant names


def _finite(column: str) -> str:
    return f"CASE WHEN {is_finite(column)} THEN {column} END"


# A reading is stored before its predictions, so its own prediction columns are often still NULL: the newest stored
# prediction is used instead, and the health status follows from both.  Otherwise alerts would flap with each reading.
_VALUES = {
    name: f"COALESCE({_finite(f'l.{column}')}, {_finite(f'p.{name}_value')})"
    if (column := target.shown.stored_column)
    else f"p.{name}_value"
    for name, target in TARGETS.items()
}
_PREDICTED = ", ".join(
    f"{_VALUES[name]} AS {target.predicted_column}, p.{name}_lower, p.{name}_upper" for name, target in TARGETS.items()
)
_FAILURE = _VALUES["failure"]
_HEALTH = ", ".join((*map(_finite, ("l.soc", "l.soh", "l.temperature")), _FAILURE))
_STATUS = f"CASE WHEN l.time IS NOT NULL THEN get_battery_health({_HEALTH}) END"
_READING = ", ".join(f"l.{name}" for name in names(READING_FIELDS) if name != "battery_id")
_SNAPSHOT = f"""
    SELECT b.battery_id, {_READING}, l.created_at, l.late, {_DATA_SHEET}, {_STATUS} AS status,
           {_PREDICTED}, {", ".join(f"p.{name}_due" for name in FORECASTS)},
           COALESCE(l.prediction_timestamp, p.predicted_at) AS prediction_timestamp
    FROM batteries b
    LEFT JOIN LATERAL {_NEWEST_READING} l ON true
    LEFT JOIN LATERAL {_newest_predictions(("value", "lower", "upper", "due"))} p ON true
"""  # noqa: S608
# Most readings have all of these, so the prediction subquery is skipped: half of the cost.
_FALLBACK_COLUMNS = ("l.soh", "l.rul_prediction", "l.failure_probability")
_NEEDS_FALLBACK = f"({' OR '.join(f'{_finite(name)} IS NULL' for name in _FALLBACK_COLUMNS)})"
# A superset of the batteries with a triggered rule: `console.alerts.rules` then selects the column of each rule.
_ALERT_CANDIDATES = f"""
    SELECT * FROM (
        SELECT b.battery_id, l.time, l.soc, l.soh, l.temperature, p.soh_value AS soh_predicted, {_STATUS} AS status,
               {_VALUES["rul"]} AS rul_prediction, {_FAILURE} AS failure_probability
        FROM batteries b
        LEFT JOIN LATERAL {_NEWEST_READING} l ON true
        LEFT JOIN LATERAL {_newest_predictions(("value",), _NEEDS_FALLBACK)} p ON true
    ) s WHERE {
    " OR ".join(
        f"{column} {'>' if rule.is_high else '<'} {rule.warning}" for rule in RULES.values() for column in rule.columns
    )
}
"""  # noqa: S608


SHADOW_BATTERIES = 100
_SHADOW_ROWS = 80
_SHADOW_OUTCOMES = 2000
_SHADOW = f"""
    WITH versions AS (
        SELECT * FROM unnest(%(targets)s::text[], %(names)s::text[], %(champions)s::text[], %(challengers)s::text[])
            AS v(target, name, champion, challenger)
    ), selected_batteries AS (
        SELECT battery_id FROM batteries ORDER BY battery_id LIMIT %(batteries)s
    ), challenged AS (
        SELECT v.champion, c.* FROM selected_batteries b
        CROSS JOIN LATERAL {newest_rows("battery_predictions", "n.role = 'challenger'", rows="%(n)s")} c
        JOIN versions v ON v.target = c.target AND v.name = c.model_name AND v.challenger = c.model_version
    ), compared AS (
        SELECT c.target, count(*) AS n, count(DISTINCT c.battery_id) AS batteries,
               avg(c.value - p.value) AS difference, avg(abs(c.value - p.value)) AS distance
        FROM challenged c JOIN battery_predictions p
          ON p.battery_id = c.battery_id AND p.time = c.time AND p.target = c.target AND p.role = 'champion'
         AND p.model_name = c.model_name AND p.model_version = c.champion
        GROUP BY c.target
    )
    SELECT v.*, COALESCE(d.n, 0) AS n, COALESCE(d.batteries, 0) AS batteries, d.difference, d.distance, e.*
    FROM versions v LEFT JOIN compared d USING (target) LEFT JOIN LATERAL (
        SELECT count(*) AS outcomes, avg(abs(p.error)) AS champion_error, avg(abs(o.error)) AS challenger_error
        FROM (
            SELECT * FROM prediction_outcomes o WHERE o.target = v.target AND o.role = 'challenger'
            ORDER BY o.matured_at DESC LIMIT %(outcomes)s
        ) o JOIN prediction_outcomes p
          ON p.battery_id = o.battery_id AND p.time = o.time AND p.target = o.target AND p.role = 'champion'
        WHERE o.model_name = v.name AND o.model_version = v.challenger
          AND p.model_name = v.name AND p.model_version = v.champion
    ) e ON true ORDER BY v.target
"""  # noqa: S608 - constant text


_DRIFT_WINDOWS = 12
_DRIFT = """
    SELECT m.target, m.model_version, m.since, m.looked_until, m.note, s.kind, s.score, s.threshold, s.is_drifting,
           s.window_end, s.windows, s.windows_out, w.ratios, w.are_out, w.samples, w.batteries, w.moved
    FROM drift_models m
    LEFT JOIN drift_status s USING (target)
    LEFT JOIN LATERAL (
        SELECT array_agg(score / NULLIF(threshold, 0) ORDER BY window_start) AS ratios,
               array_agg(is_out ORDER BY window_start) AS are_out,
               (array_agg(samples ORDER BY window_start DESC))[1] AS samples,
               (array_agg(batteries ORDER BY window_start DESC))[1] AS batteries,
               (array_agg(detail -> 'moved' ORDER BY window_start DESC))[1] AS moved
        FROM (
            SELECT * FROM drift_windows d WHERE d.target = s.target AND d.kind = s.kind
              AND d.model_name = s.model_name AND d.model_version = s.model_version AND d.window_start >= m.since
            ORDER BY d.window_start DESC LIMIT %(n)s
        ) newest
    ) w ON true
    ORDER BY m.target, s.kind
"""


class Queries:
    """Queries for batteries, readings, predictions, shadow comparison and drift.

    Every method raises `StoreUnavailableError` if the store is unavailable.  Times are timezone-aware, in UTC.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest = {"hold": PREDICTION_VALID_FOR}

    def ping(self) -> None:
        """Raise an error unless the store is reachable and has the schema."""
        self._database.fetch("SELECT FROM batteries LIMIT 1")

    def battery_ids(self, limit: int | None = None) -> list[str]:
        """Ids of all batteries, sorted."""
        rows = self._database.fetch("SELECT battery_id FROM batteries ORDER BY battery_id LIMIT %(n)s", {"n": limit})
        return [row["battery_id"] for row in rows]

    def count_batteries(self) -> int:
        """Number of batteries."""
        row = self._database.fetch_one("SELECT count(*) AS n FROM batteries")
        return 0 if row is None else int(row["n"])

    def exists(self, battery_id: str) -> bool:
        """Whether a battery has this id."""
        return (
            self._database.fetch_one("SELECT FROM batteries WHERE battery_id = %(id)s", {"id": battery_id}) is not None
        )

    def latest(self, battery_id: str) -> StoreRow | None:
        """Row of the view `latest_battery_status`."""
        return self._database.fetch_one(
            "SELECT * FROM latest_battery_status WHERE battery_id = %(id)s", {"id": battery_id}
        )

    def newest_time(self, battery_id: str) -> datetime | None:
        """Time of the newest reading; None if there is none."""
        row = self._database.fetch_one(
            f"SELECT l.time FROM batteries b, LATERAL {_NEWEST_READING} l WHERE b.battery_id = %(id)s",  # noqa: S608
            {"id": battery_id, **self._newest},
        )
        return None if row is None else cast(datetime, row["time"])

    def snapshot(self, battery_id: str) -> StoreRow | None:
        """Newest reading, newest predictions and data sheet of one battery."""
        return self._database.fetch_one(f"{_SNAPSHOT} WHERE b.battery_id = %(id)s", {"id": battery_id, **self._newest})

    def snapshots(self) -> list[StoreRow]:
        """The same for every battery, sorted by id."""
        return self._database.fetch(f"{_SNAPSHOT} ORDER BY b.battery_id", self._newest)

    def changes(self, rows: Mapping[str, StoreRow]) -> FleetChanges:
        """What changed within a day, for the batteries with the present values `rows`, see `read_changes`."""
        return read_changes(self._database, rows)

    def alert_candidates(self) -> list[StoreRow]:
        """Columns used by the alert rules, for every battery for which a rule may be triggered."""
        return self._database.fetch(_ALERT_CANDIDATES, self._newest)

    def predictions(self, battery_id: str) -> list[StoreRow]:
        """The newest prediction of each target and role."""
        newest = newest_rows("battery_predictions", "true", rows="%(n)s", battery="%(id)s")
        return self._database.fetch(
            f"SELECT DISTINCT ON (target, role) * FROM {newest} newest ORDER BY target, role, time DESC",  # noqa: S608
            {"id": battery_id, "n": _NEWEST_PREDICTIONS},
        )

    def forecast_for(self, battery_id: str, target: str, at: datetime, horizon: timedelta) -> StoreRow | None:
        """The champion's forecast of `target` that is due at `at`, made `horizon` earlier."""
        return self._database.fetch_one(
            """SELECT * FROM battery_predictions
               WHERE battery_id = %(id)s AND time BETWEEN %(first)s AND %(last)s
                 AND target = %(target)s AND role = 'champion' AND due IS NOT NULL
               ORDER BY abs(extract(epoch FROM due - %(at)s)) LIMIT 1""",
            {
                "id": battery_id,
                "target": target,
                "at": at,
                "first": at - horizon - _DUE_TOLERANCE,
                "last": at - horizon + _DUE_TOLERANCE,
            },
        )

    def cycles(self, battery_id: str, limit: int) -> list[StoreRow]:
        """The newest closed charge and discharge sessions, newest first."""
        return self._database.fetch(
            """SELECT cycle_index, kind, start_time, end_time, throughput_ah, capacity_ah, capacity_method, soh,
                      resistance_ohm, cell_voltage_spread_v, temperature_mean_c, temperature_rise_c
               FROM battery_cycles WHERE battery_id = %(id)s ORDER BY cycle_index DESC LIMIT %(n)s""",
            {"id": battery_id, "n": limit},
        )

    def outcomes(self, battery_id: str) -> list[StoreRow]:
        """The champion's newest prediction of each target that has a ground truth."""
        newest = newest_outcome("t.target", battery="%(id)s")
        return self._database.fetch(
            f"SELECT o.* FROM unnest(%(targets)s) AS t(target), LATERAL {newest} o",  # noqa: S608 - constant text
            {"id": battery_id, "targets": list(TARGET_NAMES)},
        )

    def shadow(self, versions: Mapping[str, tuple[str, int, int]]) -> list[StoreRow]:
        """Compare champion and challenger over the newest predictions of up to `SHADOW_BATTERIES` batteries.

        Args:
            versions: by target, the registered model and its champion and challenger versions; predictions of other
                versions are ignored.

        Returns:
            One row per target: `target`, model `name`, versions `champion` and `challenger`, number `n` of readings
            that both predicted and of their `batteries`, mean `difference` (challenger - champion) and mean absolute
            difference `distance`; `champion_error` and `challenger_error` are mean absolute errors over the newest
            `outcomes` that both have.  Means without data are None.
        """
        return self._database.fetch(
            _SHADOW,
            {
                "targets": list(versions),
                "names": [name for name, _, _ in versions.values()],
                "champions": [str(champion) for _, champion, _ in versions.values()],
                "challengers": [str(challenger) for _, _, challenger in versions.values()],
                "batteries": SHADOW_BATTERIES,
                "n": _SHADOW_ROWS,
                "outcomes": _SHADOW_OUTCOMES,
            },
        )

    def retrains(self, limit: int) -> list[StoreRow]:
        """The newest retrainings (columns of `retrains`), newest first."""
        return self._database.fetch("SELECT * FROM retrains ORDER BY retrain_id DESC LIMIT %(n)s", {"n": limit})

    def drift(self) -> list[StoreRow]:
        """Drift status by target and kind, with the newest windows, oldest first.

        Columns: those of `drift_models` and `drift_status` (None before the first window); of the newest windows the
        `ratios` score / threshold; of the newest window `samples`, `batteries` and `moved`, the features that moved
        most with their distances.
        """
        return self._database.fetch(_DRIFT, {"n": _DRIFT_WINDOWS})

    def now(self) -> datetime:
        """Current time of the database."""
        row = self._database.fetch_one("SELECT now() AS now")
        assert row is not None  # noqa: S101 - a SELECT without FROM has one row
        return cast(datetime, row["now"])
