"""What changed in the fleet within a day: alerts, new batteries, movements of health and life, champions, retrainings.

Bounded by three index probes per battery and by the alerts of a day; read once a minute for all open pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from console.alerts.rules import RULES
from console.connection_pool import Database, StoreRow

DAY = timedelta(days=1)
#: A value this much older than a day is not compared with the present one.
_TOLERANCE = timedelta(hours=6)
#: Smallest movement that is listed: below it the predictions of one battery scatter.
MIN_SOH_MOVEMENT = 0.2
MIN_RUL_MOVEMENT = 10.0
_MAX_ALERTS = 100
#: Low charge comes and goes with each trip; it is counted, not listed.
_LISTED_RULES = [rule.name for rule in RULES.values() if rule.category != "charge"]


@dataclass(frozen=True)
class Movement:
    """Change of one value of a battery within a day."""

    battery_id: str
    before: float
    now: float

    @property
    def change(self) -> float:
        """Signed difference."""
        return self.now - self.before


@dataclass(frozen=True)
class FleetChanges:
    """Changes within the last day of event time; champions and retrainings within the last day of wall-clock time.

    Attributes:
        opened, resolved: alerts (columns of `battery_alerts`) without low charge, the most severe and newest first.
        opened_total, resolved_total: their numbers, also of those that are not in the lists.
        new_batteries: ids and times of the first reading.
        soh, rul: movements in % and equivalent full cycles, the largest first.
        champions: `target`, `model_name`, `model_version` and `followed_at` of each new champion.
        retrains: `outcome`, `watch`, `detail`, `started_at` and `ended_at` of each retraining.
    """

    opened: Sequence[StoreRow] = ()
    resolved: Sequence[StoreRow] = ()
    opened_total: int = 0
    resolved_total: int = 0
    new_batteries: Sequence[tuple[str, datetime]] = ()
    soh: Sequence[Movement] = ()
    rul: Sequence[Movement] = ()
    champions: Sequence[StoreRow] = ()
    retrains: Sequence[StoreRow] = ()


def read_changes(database: Database, rows: Mapping[str, StoreRow]) -> FleetChanges:
    """Changes of the batteries whose present values are `rows` (columns of `Queries.snapshots`).

    Raises:
        StoreUnavailableError: the store is unavailable.
    """
    times = {battery_id: row["time"] for battery_id, row in rows.items() if row["time"] is not None}
    if not times:
        return FleetChanges()
    since = max(times.values()) - DAY
    alerts = {"since": since, "rules": _LISTED_RULES, "n": _MAX_ALERTS}
    counts = database.fetch_one(_ALERT_COUNTS, alerts) or {}
    past = database.fetch(
        _PAST, {"ids": list(times), "times": list(times.values()), "day": DAY, "tolerance": _TOLERANCE}
    )
    return FleetChanges(
        opened=database.fetch(_OPENED, alerts),
        resolved=database.fetch(_RESOLVED, alerts),
        opened_total=counts.get("opened", 0),
        resolved_total=counts.get("resolved", 0),
        new_batteries=sorted(
            (row["battery_id"], row["first_time"]) for row in past if row["first_time"] and row["first_time"] > since
        ),
        soh=_movements(past, rows, (("soh", "soh"), ("soh_predicted", "soh_predicted")), MIN_SOH_MOVEMENT),
        rul=_movements(past, rows, (("rul_predicted", "rul_prediction"),), MIN_RUL_MOVEMENT),
        champions=database.fetch(_CHAMPIONS),
        retrains=database.fetch(_RETRAINS),
    )


def _movements(
    past: Sequence[StoreRow], rows: Mapping[str, StoreRow], columns: Sequence[tuple[str, str]], smallest: float
) -> list[Movement]:
    """Movements of at least `smallest`, of the first pair of columns that is known both then and now."""
    found = []
    for row in past:
        now = rows[row["battery_id"]]
        pair = next(
            ((row[then], now[here]) for then, here in columns if row[then] is not None and now[here] is not None), None
        )
        if pair is not None and abs(pair[1] - pair[0]) >= smallest:
            found.append(Movement(row["battery_id"], *pair))
    return sorted(found, key=lambda movement: -abs(movement.change))


_PAST = """
    SELECT b.battery_id, f.time AS first_time, r.soh, p.soh_predicted, p.rul_predicted
    FROM unnest(%(ids)s::text[], %(times)s::timestamptz[]) AS b(battery_id, time)
    LEFT JOIN LATERAL (
        SELECT e.time FROM ev_telemetry e WHERE e.battery_id = b.battery_id ORDER BY e.time LIMIT 1
    ) f ON true
    LEFT JOIN LATERAL (
        SELECT e.soh FROM ev_telemetry e
        WHERE e.battery_id = b.battery_id AND e.voltage IS NOT NULL
          AND e.time BETWEEN b.time - %(day)s - %(tolerance)s AND b.time - %(day)s
        ORDER BY e.time DESC LIMIT 1
    ) r ON true
    LEFT JOIN LATERAL (
        SELECT avg(value) FILTER (WHERE target = 'soh') AS soh_predicted,
               avg(value) FILTER (WHERE target = 'rul') AS rul_predicted
        FROM (
            SELECT n.target, n.value FROM battery_predictions n
            WHERE n.battery_id = b.battery_id AND n.role = 'champion'
              AND n.time BETWEEN b.time - %(day)s - %(tolerance)s AND b.time - %(day)s
            ORDER BY n.time DESC LIMIT 40
        ) newest
    ) p ON true
"""
_RECENT_ALERTS = "FROM battery_alerts WHERE changed_at > now() - interval '1 day' AND rule = ANY(%(rules)s)"
_ALERT_COUNTS = f"""
    SELECT count(*) FILTER (WHERE opened_at > %(since)s) AS opened,
           count(*) FILTER (WHERE cleared_at > %(since)s) AS resolved {_RECENT_ALERTS}
"""
_OPENED = f"""
    SELECT * {_RECENT_ALERTS} AND opened_at > %(since)s AND cleared_at IS NULL
    ORDER BY severity, opened_at DESC LIMIT %(n)s
"""
_RESOLVED = f"""
    SELECT * {_RECENT_ALERTS} AND cleared_at > %(since)s ORDER BY severity, cleared_at DESC LIMIT %(n)s
"""
_CHAMPIONS = """
    SELECT target, model_name, model_version, followed_at FROM drift_models
    WHERE followed_at > now() - interval '1 day' ORDER BY target
"""
_RETRAINS = """
    SELECT outcome, watch, detail, started_at, ended_at FROM retrains
    WHERE started_at > now() - interval '1 day' ORDER BY retrain_id DESC LIMIT 10
"""
