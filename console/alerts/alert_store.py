"""Storage of alerts and mutes in the tables `battery_alerts` and `alert_mutes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from console.alerts.alert_lifecycle import Key, Transition
from console.alerts.rules import RULES, Severity
from console.connection_pool import Database, StoreRow
from telemetry.errors import TwinError

MAX_MUTE = timedelta(days=30)
_MAX_TEXT_LENGTH = 500


class AlertChangedError(TwinError):
    """An alert has changed since the page showed it."""


@dataclass(frozen=True)
class AlertFilter:
    """Filter for a list of alerts.

    Attributes:
        battery_id: only alerts of this battery.
        rules: only alerts of these rules.
        text: only alerts of batteries whose id or fleet contains it (case-insensitive).
    """

    battery_id: str | None = None
    rules: Sequence[str] | None = None
    text: str = ""


class AlertStore:
    """Reads and writes alerts; every method raises `StoreUnavailableError` if the store is unavailable.

    Args:
        database: connections with write access to the two tables.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_severities(self) -> dict[Key, Severity]:
        """Severity of every open alert, by battery and rule."""
        rows = self._database.fetch("SELECT battery_id, rule, severity FROM battery_alerts WHERE cleared_at IS NULL")
        return {(row["battery_id"], row["rule"]): row["severity"] for row in rows}

    def muted(self) -> frozenset[Key]:
        """Battery and rule of every open alert that is currently muted."""
        rows = self._database.fetch(
            """SELECT DISTINCT a.battery_id, a.rule FROM battery_alerts a JOIN alert_mutes m
                 ON (m.battery_id IS NULL OR m.battery_id = a.battery_id) AND (m.rule IS NULL OR m.rule = a.rule)
               WHERE a.cleared_at IS NULL AND m.until > now()"""
        )
        return frozenset((row["battery_id"], row["rule"]) for row in rows)

    def apply(self, transitions: Sequence[Transition]) -> None:
        """Store transitions; idempotent, also if another console has stored them already."""
        if not transitions:
            return
        with self._database.transaction() as cursor:
            for transition in transitions:
                cursor.execute(_SQL[transition.kind], _parameters(transition))

    def alerts(self, selection: AlertFilter | None = None, *, limit: int = 100) -> list[StoreRow]:
        """Alerts by `state`: "open" and "muted", CRITICAL first, then "resolved", newest first.

        Args:
            limit: maximum number per state.

        Returns:
            The columns of `battery_alerts`; `state_total`, the number of alerts in that state, None for resolved ones;
            of the mute that ends last `mute_until`, `mute_reason`, `muted_by`, `mute_battery_id` and `mute_rule`, the
            last two None if it applies to all batteries or rules.
        """
        selection = selection or AlertFilter()
        parameters = {
            "id": selection.battery_id,
            "rules": list(RULES if selection.rules is None else selection.rules),
            "text": selection.text.strip().lower(),
            "limit": limit,
        }
        return self._database.fetch(_OPEN, parameters) + self._database.fetch(_RESOLVED, parameters)

    def acknowledge(self, seen: Mapping[int, Severity], *, by: str, note: str) -> int:
        """Acknowledge the alerts `seen` (severity by id) and return the number that was acknowledged.

        Alerts that were resolved, changed severity or were acknowledged since the page showed them are skipped.

        Raises:
            AlertChangedError: all of them were skipped.
            TwinError: there is no such alert, or `seen` is empty.
        """
        if not seen:
            raise TwinError("There is no alert to acknowledge.", field="alert_id")
        parameters = {
            "ids": list(seen),
            "severities": list(seen.values()),
            "by": _text("by", by),
            "note": note.strip()[:_MAX_TEXT_LENGTH],
        }
        with self._database.transaction() as cursor:
            cursor.execute(_ACKNOWLEDGE, parameters)
            if cursor.rowcount:
                return cursor.rowcount
        raise self._conflict(seen)

    def _conflict(self, seen: Mapping[int, Severity]) -> TwinError:
        alert_id, severity = next(iter(seen.items()))
        alert = self._database.fetch_one("SELECT * FROM battery_alerts WHERE alert_id = %(id)s", {"id": alert_id})
        if alert is None:
            return TwinError(f"There is no alert {alert_id}.", field="alert_id", value=alert_id)
        if len(seen) > 1:
            return AlertChangedError("All of these alerts have changed: reload and try again.")
        if alert["cleared_at"] is not None:
            return AlertChangedError(f"This alert was resolved at {alert['cleared_at']:%Y-%m-%d %H:%M:%S} UTC.")
        if alert["acknowledged_by"] is not None:
            note = f": {alert['note']}" if alert["note"] else ""
            return AlertChangedError(f"Already acknowledged by {alert['acknowledged_by']}{note}.")
        return AlertChangedError(f"The alert is now {alert['severity']}, was {severity}: check it again.")

    def mute(self, battery_id: str | None, rule: str | None, *, hours: float, by: str, reason: str) -> None:
        """Mute alerts of a battery, a rule or both for `hours`; the alerts are still tracked.

        Raises:
            TwinError: the rule is unknown, the reason is empty, or the duration is not between 0 and 30 days.
        """
        if rule is not None and rule not in RULES:
            raise TwinError(f"There is no rule {rule}: use one of {', '.join(RULES)}.", field="rule", value=rule)
        if not 0 < hours <= MAX_MUTE.total_seconds() / 3600:
            raise TwinError(
                f"hours is {hours:g}: a mute lasts more than 0 hours and at most 30 days.", field="hours", value=hours
            )
        with self._database.transaction() as cursor:
            cursor.execute(
                "INSERT INTO alert_mutes (battery_id, rule, until, reason, muted_by) "
                "VALUES (%(id)s, %(rule)s, %(until)s, %(reason)s, %(by)s)",
                {
                    "id": battery_id,
                    "rule": rule,
                    "until": datetime.now(UTC) + timedelta(hours=hours),
                    "reason": _text("reason", reason),
                    "by": _text("by", by),
                },
            )

    def unmute(self, battery_id: str | None, rule: str | None) -> int:
        """End the active mutes with exactly this battery and rule; returns their number."""
        with self._database.transaction() as cursor:
            cursor.execute(
                "UPDATE alert_mutes SET until = now() WHERE until > now() "
                "AND battery_id IS NOT DISTINCT FROM %(id)s AND rule IS NOT DISTINCT FROM %(rule)s",
                {"id": battery_id, "rule": rule},
            )
            return cursor.rowcount

    def mutes(self) -> list[StoreRow]:
        """Active mutes (columns of `alert_mutes`), in order of their end."""
        return self._database.fetch("SELECT * FROM alert_mutes WHERE until > now() ORDER BY until, mute_id")


def _text(field: str, value: str) -> str:
    if not value.strip():
        raise TwinError(f"{field} is empty: it is stored with the alert.", field=field)
    return value.strip()[:_MAX_TEXT_LENGTH]


def _parameters(transition: Transition) -> dict[str, Any]:
    return {**vars(transition), "evidence": orjson.dumps(transition.evidence).decode()}


_FILTER = """
    (%(id)s IS NULL OR a.battery_id = %(id)s)
    AND (%(text)s = '' OR strpos(lower(a.battery_id), %(text)s) > 0 OR EXISTS (
        SELECT FROM batteries b WHERE b.battery_id = a.battery_id AND strpos(lower(b.fleet), %(text)s) > 0))
"""
_OPEN = f"""
    SELECT * FROM (
        SELECT o.*, count(*) OVER (PARTITION BY o.state) AS state_total,
               row_number() OVER (PARTITION BY o.state ORDER BY o.severity, o.opened_at DESC, o.alert_id) AS rank
        FROM (
            SELECT a.*, CASE WHEN m.until IS NULL THEN 'open' ELSE 'muted' END AS state, m.until AS mute_until,
                   m.reason AS mute_reason, m.muted_by, m.battery_id AS mute_battery_id, m.rule AS mute_rule
            FROM battery_alerts a LEFT JOIN LATERAL (
                SELECT * FROM alert_mutes m WHERE m.until > now()
                  AND (m.battery_id IS NULL OR m.battery_id = a.battery_id) AND (m.rule IS NULL OR m.rule = a.rule)
                ORDER BY m.until DESC LIMIT 1
            ) m ON true
            WHERE a.cleared_at IS NULL AND a.rule = ANY(%(rules)s) AND {_FILTER}
        ) o
    ) ranked WHERE rank <= %(limit)s ORDER BY state DESC, rank
"""  # noqa: S608 - constant names
# Per rule, so that frequent alerts do not crowd out rare ones and the index scan does not step over them.
_RESOLVED = f"""
    SELECT o.*, 'resolved' AS state, NULL::bigint AS state_total, NULL::timestamptz AS mute_until
    FROM unnest(%(rules)s::text[]) AS r(rule), LATERAL (
        SELECT a.* FROM battery_alerts a WHERE a.rule = r.rule AND a.cleared_at IS NOT NULL AND {_FILTER}
        ORDER BY a.changed_at DESC LIMIT %(limit)s
    ) o ORDER BY o.changed_at DESC, o.alert_id LIMIT %(limit)s
"""  # noqa: S608
_ACKNOWLEDGE = """
    UPDATE battery_alerts a SET acknowledged_at = now(), acknowledged_by = %(by)s, note = NULLIF(%(note)s, '')
    FROM unnest(%(ids)s::bigint[], %(severities)s::text[]) AS s(alert_id, severity)
    WHERE a.alert_id = s.alert_id AND a.severity = s.severity
      AND a.acknowledged_at IS NULL AND a.cleared_at IS NULL
"""
_SQL = {
    "open": """
        INSERT INTO battery_alerts (battery_id, rule, severity, reason, value, threshold, evidence, opened_at)
        VALUES (%(battery_id)s, %(rule)s, %(severity)s, %(reason)s, %(value)s, %(threshold)s, %(evidence)s, %(at)s)
        ON CONFLICT (battery_id, rule) WHERE cleared_at IS NULL DO NOTHING
    """,
    # An alert that becomes CRITICAL has to be acknowledged again.
    "change": """
        UPDATE battery_alerts SET severity = %(severity)s, reason = %(reason)s, value = %(value)s,
            threshold = %(threshold)s, evidence = %(evidence)s, changed_at = now(),
            acknowledged_at = CASE WHEN %(severity)s = 'CRITICAL' THEN NULL ELSE acknowledged_at END,
            acknowledged_by = CASE WHEN %(severity)s = 'CRITICAL' THEN NULL ELSE acknowledged_by END,
            note = CASE WHEN %(severity)s = 'CRITICAL' THEN NULL ELSE note END
        WHERE battery_id = %(battery_id)s AND rule = %(rule)s AND cleared_at IS NULL AND severity <> %(severity)s
    """,
    "clear": """
        UPDATE battery_alerts SET cleared_at = %(at)s, changed_at = now()
        WHERE battery_id = %(battery_id)s AND rule = %(rule)s AND cleared_at IS NULL
    """,
}
