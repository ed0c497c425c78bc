"""What is remembered of alerts: tables `battery_alerts` and `alert_mutes`."""

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

LONGEST_MUTE = timedelta(days=30)
_MOST_TEXT = 500


class AlertChangedError(TwinError):
    """An alert is no longer as it was seen."""


@dataclass(frozen=True)
class Chosen:
    """Which alerts.

    Attributes:
        battery_id: of this battery only.
        rules: of these rules only.
        text: of batteries whose id or fleet holds it, in capitals or not.
    """

    battery_id: str | None = None
    rules: Sequence[str] | None = None
    text: str = ""


class AlertStore:
    """Reads and writes alerts; every method raises `StoreUnavailableError` where the store cannot.

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

    def alerts(self, chosen: Chosen | None = None, *, most: int = 100) -> list[StoreRow]:
        """Alerts by their `state`: "open" and "muted", the worst first, then "over", the newest first.

        Args:
            most: so many of each state.

        Returns:
            The columns of `battery_alerts`; `of_state`, how many there are in all, None where they are over; of the
            mute that lasts longest `mute_until`, `mute_reason`, `muted_by`, `mute_battery_id` and `mute_rule`, the last
            two None where it is for every one.
        """
        chosen = chosen or Chosen()
        parameters = {
            "id": chosen.battery_id,
            "rules": list(RULES if chosen.rules is None else chosen.rules),
            "text": chosen.text.strip().lower(),
            "most": most,
        }
        return self._database.fetch(_OPEN, parameters) + self._database.fetch(_OVER, parameters)

    def acknowledge(self, seen: Mapping[int, Severity], *, by: str, note: str) -> int:
        """Say that somebody knows of the alerts `seen` (severity by id); of how many of them.

        What has ended, got another severity or was acknowledged since is left as it is.

        Raises:
            AlertChangedError: all of them have.
            TwinError: there is no such alert, or nothing is named.
        """
        if not seen:
            raise TwinError("Nothing is left to acknowledge.", field="alert_id")
        parameters = {
            "ids": list(seen),
            "severities": list(seen.values()),
            "by": _text("by", by),
            "note": note.strip()[:_MOST_TEXT],
        }
        with self._database.transaction() as cursor:
            cursor.execute(_ACKNOWLEDGE, parameters)
            if cursor.rowcount:
                return cursor.rowcount
        raise self._why_not(seen)

    def _why_not(self, seen: Mapping[int, Severity]) -> TwinError:
        alert_id, severity = next(iter(seen.items()))
        alert = self._database.fetch_one("SELECT * FROM battery_alerts WHERE alert_id = %(id)s", {"id": alert_id})
        if alert is None:
            return TwinError(f"There is no alert {alert_id}.", field="alert_id", value=alert_id)
        if len(seen) > 1:
            return AlertChangedError("All of these alerts have changed since: look again.")
        if alert["cleared_at"] is not None:
            return AlertChangedError(f"This alert is over since {alert['cleared_at']:%Y-%m-%d %H:%M:%S} UTC.")
        if alert["acknowledged_by"] is not None:
            note = f": {alert['note']}" if alert["note"] else ""
            return AlertChangedError(f"{alert['acknowledged_by']} has acknowledged it already{note}.")
        return AlertChangedError(f"It is {alert['severity']} now and was {severity}: look again.")

    def mute(self, battery_id: str | None, rule: str | None, *, hours: float, by: str, reason: str) -> None:
        """Keep alerts of a battery, a rule or both out of the way for some hours; they live on meanwhile.

        Raises:
            TwinError: the rule is unknown, a reason is missing, or the time is not between 0 and 30 days.
        """
        if rule is not None and rule not in RULES:
            raise TwinError(f"There is no rule {rule}: name one of {', '.join(RULES)}.", field="rule", value=rule)
        if not 0 < hours <= LONGEST_MUTE.total_seconds() / 3600:
            raise TwinError(f"hours is {hours:g}: a mute lasts up to 30 days.", field="hours", value=hours)
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

    def unmute(self, battery_id: str | None, rule: str | None) -> None:
        """End the mutes of exactly this battery and rule now."""
        with self._database.transaction() as cursor:
            cursor.execute(
                "UPDATE alert_mutes SET until = now() WHERE until > now() "
                "AND battery_id IS NOT DISTINCT FROM %(id)s AND rule IS NOT DISTINCT FROM %(rule)s",
                {"id": battery_id, "rule": rule},
            )

    def mutes(self) -> list[StoreRow]:
        """Columns of `alert_mutes`, of those in effect, whichever ends first coming first."""
        return self._database.fetch("SELECT * FROM alert_mutes WHERE until > now() ORDER BY until, mute_id")


def _text(field: str, value: str) -> str:
    if not value.strip():
        raise TwinError(f"{field} is empty: it is kept with the alert.", field=field)
    return value.strip()[:_MOST_TEXT]


def _parameters(transition: Transition) -> dict[str, Any]:
    return {**vars(transition), "evidence": orjson.dumps(transition.evidence).decode()}


_CHOSEN = """
    (%(id)s IS NULL OR a.battery_id = %(id)s)
    AND (%(text)s = '' OR strpos(lower(a.battery_id), %(text)s) > 0 OR EXISTS (
        SELECT FROM batteries b WHERE b.battery_id = a.battery_id AND strpos(lower(b.fleet), %(text)s) > 0))
"""
_OPEN = f"""
    SELECT * FROM (
        SELECT o.*, count(*) OVER (PARTITION BY o.state) AS of_state,
               row_number() OVER (PARTITION BY o.state ORDER BY o.severity, o.opened_at DESC, o.alert_id) AS place
        FROM (
            SELECT a.*, CASE WHEN m.until IS NULL THEN 'open' ELSE 'muted' END AS state, m.until AS mute_until,
                   m.reason AS mute_reason, m.muted_by, m.battery_id AS mute_battery_id, m.rule AS mute_rule
            FROM battery_alerts a LEFT JOIN LATERAL (
                SELECT * FROM alert_mutes m WHERE m.until > now()
                  AND (m.battery_id IS NULL OR m.battery_id = a.battery_id) AND (m.rule IS NULL OR m.rule = a.rule)
                ORDER BY m.until DESC LIMIT 1
            ) m ON true
            WHERE a.cleared_at IS NULL AND a.rule = ANY(%(rules)s) AND {_CHOSEN}
        ) o
    ) placed WHERE place <= %(most)s ORDER BY state DESC, place
"""  # noqa: S608 - our own names
# Rule by rule, so that what happens daily does not crowd out what happens once a year, nor is walked past.
_OVER = f"""
    SELECT o.*, 'over' AS state, NULL::bigint AS of_state, NULL::timestamptz AS mute_until
    FROM unnest(%(rules)s::text[]) AS r(rule), LATERAL (
        SELECT a.* FROM battery_alerts a WHERE a.rule = r.rule AND a.cleared_at IS NOT NULL AND {_CHOSEN}
        ORDER BY a.changed_at DESC LIMIT %(most)s
    ) o ORDER BY o.changed_at DESC, o.alert_id LIMIT %(most)s
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
    # What got worse is news even to somebody who knows.
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
