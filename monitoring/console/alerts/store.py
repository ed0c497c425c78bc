"""What is remembered of alerts: tables `battery_alerts` and `alert_mutes`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from data.errors import TwinError
from monitoring.console.alerts.life import Key, Transition
from monitoring.console.alerts.rules import RULES, Severity
from monitoring.console.database import Database, StoreRow

LONGEST_MUTE = timedelta(days=30)
_MOST_TEXT = 500


class AlertStore:
    """Reads and writes alerts; every method raises `StoreAwayError` where the store cannot.

    Args:
        database: may write, to these two tables.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_severities(self) -> dict[Key, Severity]:
        """Severity of every open alert, by battery and rule."""
        rows = self._database.fetch("SELECT battery_id, rule, severity FROM battery_alerts WHERE cleared_at IS NULL")
        return {(row["battery_id"], row["rule"]): row["severity"] for row in rows}

    def muted(self) -> frozenset[Key]:
        """Battery and rule of every open alert that is muted now."""
        rows = self._database.fetch(
            """SELECT DISTINCT a.battery_id, a.rule FROM battery_alerts a JOIN alert_mutes m
                 ON (m.battery_id IS NULL OR m.battery_id = a.battery_id) AND (m.rule IS NULL OR m.rule = a.rule)
               WHERE a.cleared_at IS NULL AND m.until > now()"""
        )
        return frozenset((row["battery_id"], row["rule"]) for row in rows)

    def apply(self, transitions: Sequence[Transition]) -> None:
        """Store what happened; harmless where another console has stored it already."""
        if not transitions:
            return
        with self._database.transaction() as cursor:
            for transition in transitions:
                cursor.execute(_SQL[transition.kind], _parameters(transition))

    def alerts(self, battery_id: str | None = None, *, cleared: int = 100) -> list[StoreRow]:
        """Open alerts, and the `cleared` newest that are over; `mute_until` and `mute_reason` where one is muted."""
        condition = "" if battery_id is None else "AND a.battery_id = %(id)s"
        return self._database.fetch(
            f"""SELECT a.*, m.until AS mute_until, m.reason AS mute_reason FROM (
                    (SELECT a.* FROM battery_alerts a WHERE a.cleared_at IS NULL {condition})
                    UNION ALL
                    (SELECT a.* FROM battery_alerts a WHERE a.cleared_at IS NOT NULL {condition}
                     ORDER BY a.changed_at DESC LIMIT %(cleared)s)
                ) a
                LEFT JOIN LATERAL (
                    SELECT * FROM alert_mutes m WHERE m.until > now()
                      AND (m.battery_id IS NULL OR m.battery_id = a.battery_id) AND (m.rule IS NULL OR m.rule = a.rule)
                    ORDER BY m.until DESC LIMIT 1
                ) m ON true
                ORDER BY a.cleared_at IS NOT NULL, a.severity, a.opened_at DESC""",  # noqa: S608 - our own names
            {"id": battery_id, "cleared": cleared},
        )

    def acknowledge(self, alert_id: int, *, by: str, note: str) -> None:
        """Say that somebody knows.

        Raises:
            TwinError: there is no such alert.
        """
        self._change(
            "UPDATE battery_alerts SET acknowledged_at = now(), acknowledged_by = %(by)s, note = NULLIF(%(note)s, '') "
            "WHERE alert_id = %(id)s",
            {"id": alert_id, "by": _text("by", by), "note": note[:_MOST_TEXT]},
            f"There is no alert {alert_id}.",
        )

    def mute(self, battery_id: str | None, rule: str | None, *, hours: float, by: str, reason: str) -> None:
        """Keep alerts of a battery, a rule or both out of the way for some hours; they live on meanwhile.

        Raises:
            TwinError: the rule is unknown, a reason is missing, or the time is not between 0 and 30 days.
        """
        if rule is not None and rule not in RULES:
            raise TwinError(f"There is no rule {rule}: name one of {', '.join(RULES)}.", field="rule", value=rule)
        if not 0 < hours <= LONGEST_MUTE.total_seconds() / 3600:
            raise TwinError(f"hours is {hours:g}: a mute lasts up to 30 days.", field="hours", value=hours)
        self._change(
            "INSERT INTO alert_mutes (battery_id, rule, until, reason, muted_by) "
            "VALUES (%(id)s, %(rule)s, %(until)s, %(reason)s, %(by)s)",
            {
                "id": battery_id,
                "rule": rule,
                "until": datetime.now(UTC) + timedelta(hours=hours),
                "reason": _text("reason", reason),
                "by": _text("by", by),
            },
            "Nothing was muted.",
        )

    def unmute(self, battery_id: str | None, rule: str | None) -> None:
        """End the mutes of exactly this battery and rule now."""
        with self._database.transaction() as cursor:
            cursor.execute(
                "UPDATE alert_mutes SET until = now() WHERE until > now() "
                "AND battery_id IS NOT DISTINCT FROM %(id)s AND rule IS NOT DISTINCT FROM %(rule)s",
                {"id": battery_id, "rule": rule},
            )

    def _change(self, sql: str, parameters: dict[str, object], otherwise: str) -> None:
        with self._database.transaction() as cursor:
            cursor.execute(sql, parameters)
            if cursor.rowcount == 0:
                raise TwinError(otherwise)


def _text(field: str, value: str) -> str:
    if not value.strip():
        raise TwinError(f"{field} is empty: it is kept with the alert.", field=field)
    return value.strip()[:_MOST_TEXT]


def _parameters(transition: Transition) -> dict[str, Any]:
    return {**vars(transition), "evidence": orjson.dumps(transition.evidence).decode()}


_SQL = {
    "open": """
        INSERT INTO battery_alerts (battery_id, rule, severity, reason, value, threshold, evidence, opened_at)
        VALUES (%(battery_id)s, %(rule)s, %(severity)s, %(reason)s, %(value)s, %(threshold)s, %(evidence)s, %(at)s)
        ON CONFLICT (battery_id, rule) WHERE cleared_at IS NULL DO NOTHING
    """,
    # What got worse is news even to somebody who knows.
    "change": """
        UPDATE battery_alerts SET severity = %(severity)s, reason = %(reason)s, value = %(value)s,
            threshold = %(threshold)s, evidence = %(evidence)s, changed_at = now(),
            acknowledged_at = CASE WHEN %(severity)s = 'CRITICAL' THEN NULL ELSE acknowledged_at END,
            acknowledged_by = CASE WHEN %(severity)s = 'CRITICAL' THEN NULL ELSE acknowledged_by END
        WHERE battery_id = %(battery_id)s AND rule = %(rule)s AND cleared_at IS NULL AND severity <> %(severity)s
    """,
    "clear": """
        UPDATE battery_alerts SET cleared_at = %(at)s, changed_at = now()
        WHERE battery_id = %(battery_id)s AND rule = %(rule)s AND cleared_at IS NULL
    """,
}
