"""The SQL of drift: which champion is measured, its windows, and the status that follows from them.

What is found of a window, the status and the place to go on from are written in one transaction, so a kill at any
moment loses and doubles nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import psycopg2
import psycopg2.extensions
from psycopg2.extras import execute_values

from monitoring.drift.drift_params import DriftParams
from monitoring.drift.status import rule
from monitoring.store_connection import StoreConnection

DriftKind = Literal["features", "predictions", "errors"]
KINDS: tuple[DriftKind, ...] = ("features", "predictions", "errors")
Cursor: TypeAlias = psycopg2.extensions.cursor

#: Any number, the same for every watcher of a database: one of them works at a time.
_ADVISORY_LOCK = 7_308_020


@dataclass(frozen=True)
class MonitoredModel:
    """The champion of a target that is measured.

    Attributes:
        since: event time at which its first window begins.
        looked_until: event time up to which its windows have been looked at.
        note: why nothing is measured, None where something is.
    """

    target: str
    model_name: str
    model_version: str
    since: datetime
    looked_until: datetime
    note: str | None = None


@dataclass(frozen=True)
class DriftWindow:
    """What was found of one window that counts.

    Attributes:
        samples, batteries: rows that it was measured on, and of how many batteries.
        score: distance from the training reference.
        threshold: score above which it is out of bounds.
        detail: what explains the score; values that JSON knows.
    """

    kind: DriftKind
    start: datetime
    end: datetime
    samples: int
    batteries: int
    score: float
    threshold: float
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_out(self) -> bool:
        """Whether it lies out of the bounds of the reference."""
        return self.score > self.threshold


class DriftStore(StoreConnection):
    """The session of the one watcher of a database."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, "battery-twin-drift", advisory_lock=_ADVISORY_LOCK)

    def followed(self) -> dict[str, MonitoredModel]:
        """What is measured, by target."""
        with self.transaction() as cursor:
            cursor.execute("SELECT target, model_name, model_version, since, looked_until, note FROM drift_models")
            return {row[0]: MonitoredModel(*row) for row in cursor.fetchall()}

    def follow(self, champion: MonitoredModel) -> None:
        """Measure `champion` from now on: its windows begin anew, and so does the status of its target."""
        with self.transaction() as cursor:
            cursor.execute(
                "INSERT INTO drift_models (target, model_name, model_version, since, looked_until, note) "
                "VALUES (%(target)s, %(model_name)s, %(model_version)s, %(since)s, %(looked_until)s, %(note)s) "
                "ON CONFLICT (target) DO UPDATE SET model_name = EXCLUDED.model_name, "
                "model_version = EXCLUDED.model_version, since = EXCLUDED.since, "
                "looked_until = EXCLUDED.looked_until, note = EXCLUDED.note, followed_at = now()",
                vars(champion),
            )
            cursor.execute("DELETE FROM drift_status WHERE target = %s", (champion.target,))

    def explain(self, champion: MonitoredModel, note: str | None) -> None:
        """Keep why nothing is measured of `champion`; None: something is."""
        with self.transaction() as cursor:
            cursor.execute("UPDATE drift_models SET note = %s WHERE target = %s", (note, champion.target))

    def write(
        self, champion: MonitoredModel, windows: Sequence[DriftWindow], until: datetime, params: DriftParams
    ) -> None:
        """Keep what was found of `champion` up to `until`, at most one window of each kind, and the status after it."""
        with self.transaction() as cursor:
            cursor.execute(
                "UPDATE drift_models SET looked_until = %s "
                "WHERE target = %s AND model_name = %s AND model_version = %s",
                (until, champion.target, champion.model_name, champion.model_version),
            )
            if not windows:
                return
            execute_values(
                cursor,
                "INSERT INTO drift_windows (target, kind, model_name, model_version, window_start, window_end, "
                "samples, batteries, score, threshold, is_out, detail) VALUES %s ON CONFLICT DO NOTHING",
                [
                    (
                        champion.target,
                        one.kind,
                        champion.model_name,
                        champion.model_version,
                        one.start,
                        one.end,
                        one.samples,
                        one.batteries,
                        one.score,
                        one.threshold,
                        one.is_out,
                        json.dumps(one.detail),
                    )
                    for one in windows
                ],
            )
            for one in windows:
                _renew_status(cursor, champion, one, params)


def _renew_status(cursor: Cursor, champion: MonitoredModel, newest: DriftWindow, params: DriftParams) -> None:
    cursor.execute(
        "SELECT is_out FROM drift_windows WHERE target = %s AND kind = %s AND model_name = %s AND model_version = %s "
        "AND window_start >= %s ORDER BY window_start DESC LIMIT %s",
        (
            champion.target,
            newest.kind,
            champion.model_name,
            champion.model_version,
            champion.since,
            params.windows,
        ),
    )
    said = rule([is_out for (is_out,) in cursor.fetchall()], params)
    cursor.execute(
        "INSERT INTO drift_status (target, kind, score, threshold, is_drifting, checked_at, model_name, model_version, "
        "window_end, windows, windows_out) VALUES (%s, %s, %s, %s, %s, now(), %s, %s, %s, %s, %s) "
        "ON CONFLICT (target, kind) DO UPDATE SET score = EXCLUDED.score, threshold = EXCLUDED.threshold, "
        "is_drifting = EXCLUDED.is_drifting, checked_at = EXCLUDED.checked_at, model_name = EXCLUDED.model_name, "
        "model_version = EXCLUDED.model_version, window_end = EXCLUDED.window_end, windows = EXCLUDED.windows, "
        "windows_out = EXCLUDED.windows_out",
        (
            champion.target,
            newest.kind,
            newest.score,
            newest.threshold,
            said.is_drifting,
            champion.model_name,
            champion.model_version,
            newest.end,
            said.windows,
            said.windows_out,
        ),
    )
