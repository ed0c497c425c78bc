"""SQL of drift detection: the monitored champions, their windows and the drift status derived from them.

A window's result, the status and the cursor are written in one transaction, so a kill at any time loses and duplicates
nothing.
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
from telemetry.stores.connection import StoreConnection

DriftKind = Literal["features", "predictions", "errors"]
KINDS: tuple[DriftKind, ...] = ("features", "predictions", "errors")
Cursor: TypeAlias = psycopg2.extensions.cursor

#: Key of the advisory lock: one drift monitor per database works at a time.
_ADVISORY_LOCK = 7_308_020


@dataclass(frozen=True)
class MonitoredModel:
    """The champion of a target whose drift is measured.

    Attributes:
        since: event time at which its first window begins.
        looked_until: cursor: event time up to which its windows have been processed.
        note: why nothing is measured; None if it is.
    """

    target: str
    model_name: str
    model_version: str
    since: datetime
    looked_until: datetime
    note: str | None = None


@dataclass(frozen=True)
class DriftWindow:
    """Result of one window with enough rows and batteries.

    Attributes:
        samples, batteries: number of rows measured, and of batteries.
        score: distance from the training reference.
        threshold: score above which it is out of bounds.
        detail: explanation of the score, JSON-serializable.
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
        """Whether the score exceeds the threshold."""
        return self.score > self.threshold


@dataclass(frozen=True)
class DriftStatus:
    """Drift status of one model and kind.

    Attributes:
        windows: number of newest windows considered.
        windows_out: how many of them are out of bounds.
    """

    is_drifting: bool
    windows: int
    windows_out: int


def drift_status(are_out: Sequence[bool], params: DriftParams) -> DriftStatus:
    """Drifting if the newest window and at least `out_windows` of the last `windows` are out.

    Args:
        are_out: whether each window is out of bounds, newest first.
    """
    considered = are_out[: params.windows]
    out = sum(considered)
    return DriftStatus(bool(considered) and considered[0] and out >= params.out_windows, len(considered), out)


class DriftStore(StoreConnection):
    """Database connection of the drift monitor, with its advisory lock; `max_future_s` as in `StoreConnection`."""

    def __init__(self, dsn: str, max_future_s: float | None = None) -> None:
        super().__init__(dsn, "battery-twin-drift", advisory_lock=_ADVISORY_LOCK, max_future_s=max_future_s)

    def monitored_models(self) -> dict[str, MonitoredModel]:
        """The monitored champion of each target."""
        with self.transaction() as cursor:
            cursor.execute("SELECT target, model_name, model_version, since, looked_until, note FROM drift_models")
            return {row[0]: MonitoredModel(*row) for row in cursor.fetchall()}

    def start_monitoring(self, champion: MonitoredModel) -> None:
        """Monitor `champion` from now on, which resets the status of its target."""
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

    def set_note(self, champion: MonitoredModel, note: str | None) -> None:
        """Store why nothing is measured of `champion`; None if it is measured."""
        with self.transaction() as cursor:
            cursor.execute("UPDATE drift_models SET note = %s WHERE target = %s", (note, champion.target))

    def write(
        self, champion: MonitoredModel, windows: Sequence[DriftWindow], until: datetime, params: DriftParams
    ) -> None:
        """Store the windows of `champion` that end at `until`, at most one per kind, and the resulting status."""
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
                        window.kind,
                        champion.model_name,
                        champion.model_version,
                        window.start,
                        window.end,
                        window.samples,
                        window.batteries,
                        window.score,
                        window.threshold,
                        window.is_out,
                        json.dumps(window.detail),
                    )
                    for window in windows
                ],
            )
            for window in windows:
                _update_status(cursor, champion, window, params)


def _update_status(cursor: Cursor, champion: MonitoredModel, newest: DriftWindow, params: DriftParams) -> None:
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
    status = drift_status([is_out for (is_out,) in cursor.fetchall()], params)
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
            status.is_drifting,
            champion.model_name,
            champion.model_version,
            newest.end,
            status.windows,
            status.windows_out,
        ),
    )
