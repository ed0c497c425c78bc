"""SQL of automatic retraining on the telemetry store: drifting models, training records and the advisory lock."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg2
from psycopg2.extras import Json

from features.targets import TARGETS
from monitoring.drift import windows
from retraining.champion_comparison import PairedLoss
from retraining.trigger import DetectedDrift, RetrainHistory
from telemetry.stores.connection import StoreConnection

OutcomeName = Literal["promoted", "not_promoted", "failed", "stopped"]
WatchEnd = Literal["passed", "rolled_back", "superseded"]

#: Key of the advisory lock: one retraining per store at a time, on any machine.
_ADVISORY_LOCK = 7_308_021
#: PostgreSQL truncates longer application names.
_NAME_BYTES = 63


@dataclass(frozen=True)
class WatchedPromotion:
    """A promotion that is still compared with its predecessor.

    Attributes:
        release, previous: the promoted release, and the one that it replaced.
        since: event time up to which the new models were trained; their predictions are newer.
        versions: by target, the new and the old version of the model.
        compared_outcomes: by target, the number of outcomes at the last comparison.
        started: watermark of the fleet at the first check; None before it.
    """

    retrain_id: int
    release: int
    previous: int
    since: datetime | None
    versions: Mapping[str, tuple[int, int]]
    compared_outcomes: Mapping[str, int]
    started: datetime | None


class RetrainStore(StoreConnection):
    """A lazily opened connection to the telemetry store.  Errors are those of psycopg2.

    The advisory lock lasts as long as the connection: `unlock`, `close` and the end of the process release it.

    Args:
        by: user name in the records.
    """

    def __init__(self, dsn: str, domain: str, by: str) -> None:
        host = platform.node()
        name = f"retrain by {by} on {host}, process {os.getpid()}".encode()[:_NAME_BYTES].decode(errors="ignore")
        super().__init__(dsn, name, advisory_lock=_ADVISORY_LOCK)
        self._domain = domain
        self._by = by
        self._host = host

    # The lock

    def holds_lock(self) -> bool:
        """Whether the lock is held; False once the connection was lost."""
        try:
            return bool(self._fetch_one(f"SELECT EXISTS ({_HELD_LOCK} AND l.pid = pg_backend_pid())")[0])
        except psycopg2.Error:
            return False

    def lock_holder(self) -> str | None:
        """Application name of the connection that holds the lock; None if it is free."""
        rows = self._fetch_all(
            f"SELECT a.application_name, a.pid FROM ({_HELD_LOCK}) l JOIN pg_stat_activity a USING (pid)"  # noqa: S608
        )
        return None if not rows else rows[0][0] or f"connection {rows[0][1]} of the store"

    # Drift

    def watermark(self, batteries: int) -> datetime | None:
        """Event time that this many batteries have reached; None if fewer have sent data."""
        return windows.watermark(self.connection(), batteries)

    def drifts(self) -> list[DetectedDrift]:
        """The drifting models of this model namespace, with the newest window of each."""
        rows = self._fetch_all(
            """
            SELECT s.target, s.kind, s.score, s.threshold, w.window_start, s.model_version
            FROM drift_status s
            JOIN drift_windows w USING (target, kind, model_name, model_version, window_end)
            WHERE s.is_drifting AND s.model_name = %s || '-' || s.target ORDER BY s.target, s.kind
            """,
            (self._domain,),
        )
        return [DetectedDrift(*row) for row in rows]

    def trainable_batteries(self, cadence: Literal["reading", "cycle"], limit: int) -> list[str]:
        """Up to `limit` batteries with training data for a model of this cadence, ordered by id."""
        has_cycles = "OR EXISTS (SELECT FROM battery_cycles c WHERE c.battery_id = b.battery_id)"
        rows = self._fetch_all(
            "SELECT b.battery_id FROM batteries b WHERE EXISTS (SELECT FROM ev_telemetry t "  # noqa: S608 - constant text
            "WHERE t.battery_id = b.battery_id AND t.voltage IS NOT NULL) "
            f"{has_cycles if cadence == 'cycle' else ''} ORDER BY b.battery_id LIMIT %s",
            (limit,),
        )
        return [battery_id for (battery_id,) in rows]

    def history(self) -> RetrainHistory:
        """Summary of the previous trainings."""
        ended_at, data_until = self._fetch_one(
            "SELECT max(ended_at) FILTER (WHERE outcome <> 'stopped'), "
            "max(data_until) FILTER (WHERE outcome IN ('promoted', 'not_promoted')) FROM retrains WHERE domain = %s",
            (self._domain,),
        )
        (unchanged,) = self._fetch_one(
            """
            SELECT count(*) FROM retrains
            WHERE domain = %(domain)s AND outcome <> 'stopped' AND retrain_id > COALESCE(
                (SELECT max(retrain_id) FROM retrains WHERE domain = %(domain)s AND outcome = 'promoted'
                 AND watch IS DISTINCT FROM 'rolled_back'), 0)
            """,
            {"domain": self._domain},
        )
        return RetrainHistory(ended_at, data_until, unchanged)

    # Training records

    def abandoned(self) -> list[tuple[int, str]]:
        """Id and error of open records whose process has ended; requires the lock."""
        rows = self._fetch_all(
            """
            SELECT retrain_id, COALESCE(error,
                'it ended without a result: its process on ' || host || ' was killed or lost its database connection')
            FROM retrains WHERE ended_at IS NULL AND domain = %s ORDER BY retrain_id
            """,
            (self._domain,),
        )
        return [(number, error) for number, error in rows]

    def start(self, reason: str, drifts: Sequence[DetectedDrift], release: int | None) -> int:
        """Record the start of a training; returns its id."""
        drift = [vars(one) | {"window_start": one.window_start.isoformat()} for one in drifts]
        (retrain_id,) = self._fetch_one(
            "INSERT INTO retrains (domain, host, started_by, reason, drift, release_before) "
            "VALUES (%s, %s, %s, %s, %s, %s) RETURNING retrain_id",
            (self._domain, self._host, self._by, reason, Json(drift), release),
        )
        return int(retrain_id)

    def update(
        self,
        retrain_id: int,
        *,
        run_id: str | None = None,
        data_until: datetime | None = None,
        error: str | None = None,
    ) -> None:
        """Set the given columns of an open record."""
        self._execute(
            "UPDATE retrains SET run_id = COALESCE(%s, run_id), data_until = COALESCE(%s, data_until), "
            "error = COALESCE(%s, error) WHERE retrain_id = %s",
            (run_id, data_until, error, retrain_id),
        )

    def finish(
        self,
        retrain_id: int,
        outcome: OutcomeName,
        *,
        detail: str | None = None,
        error: str | None = None,
        release: int | None = None,
        previous: int | None = None,
        watched: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Record the outcome, once; with `watched`, the promotion is monitored from now on.

        A promotion is recorded even if another process has closed the record as failed meanwhile.

        Args:
            release: the release that serves afterwards.
            previous: the release that it replaced; None for the one that served at the start of the training.
        """
        self._execute(
            """
            UPDATE retrains SET ended_at = now(), outcome = %(outcome)s, detail = %(detail)s, error = %(error)s,
                release_after = %(release)s, release_before = COALESCE(%(previous)s, release_before),
                watch = %(watch)s, watched = %(watched)s
            WHERE retrain_id = %(id)s
              AND (ended_at IS NULL OR (%(outcome)s = 'promoted' AND outcome <> 'promoted'))
            """,
            {
                "id": retrain_id,
                "outcome": outcome,
                "detail": detail,
                "error": error,
                "release": release,
                "previous": previous,
                "watch": "watching" if watched else None,
                "watched": Json({target: list(pair) for target, pair in watched.items()}) if watched else None,
            },
        )

    # Promotion monitoring

    def watched_promotions(self) -> list[WatchedPromotion]:
        """Promotions that are still monitored, oldest first."""
        rows = self._fetch_all(
            "SELECT retrain_id, release_after, release_before, data_until, watched, watch_looks, watch_from "
            "FROM retrains WHERE domain = %s AND watch = 'watching' ORDER BY retrain_id",
            (self._domain,),
        )
        return [
            WatchedPromotion(
                retrain_id,
                release,
                previous,
                since,
                {target: (new, old) for target, (new, old) in pairs.items()},
                compared,
                started,
            )
            for retrain_id, release, previous, since, pairs, compared, started in rows
        ]

    def start_watch(self, retrain_id: int, watermark: datetime) -> None:
        """Store the event time at which monitoring of a promotion starts, once."""
        self._execute(
            "UPDATE retrains SET watch_from = COALESCE(watch_from, %s) WHERE retrain_id = %s", (watermark, retrain_id)
        )

    def paired_losses(self, target: str, new: int, old: int, since: datetime | None) -> list[PairedLoss]:
        """By battery, losses of champion `new` and of its shadow `old` on the same predictions from `since` on."""
        loss = "power({0}.error, 2)" if TARGETS[target].kind == "classification" else "abs({0}.error)"
        rows = self._fetch_all(
            f"""
            SELECT n.battery_id, count(*), avg({loss.format("n")}), avg({loss.format("o")})
            FROM prediction_outcomes n
            JOIN prediction_outcomes o USING (battery_id, target, time)
            WHERE n.target = %s AND n.role = 'champion' AND o.role = 'challenger'
              AND n.model_name = %s AND n.model_version = %s AND o.model_name = n.model_name AND o.model_version = %s
              AND n.matured_at >= COALESCE(%s::timestamptz, '-infinity')
            GROUP BY n.battery_id ORDER BY n.battery_id
            """,  # noqa: S608 - constant text
            (target, f"{self._domain}-{target}", str(new), str(old), since),
        )
        return [PairedLoss(*row) for row in rows]

    def has_outcomes(self, target: str, version: int, since: datetime | None, count: int) -> bool:
        """Whether champion `version` has `count` outcomes from `since` on, with or without a shadow."""
        (outcomes,) = self._fetch_one(
            "SELECT count(*) FROM (SELECT FROM prediction_outcomes WHERE target = %s AND role = 'champion' "
            "AND model_name = %s AND model_version = %s "
            "AND matured_at >= COALESCE(%s::timestamptz, '-infinity') LIMIT %s) few",
            (target, f"{self._domain}-{target}", str(version), since, count),
        )
        return bool(outcomes >= count)

    def set_watch_detail(self, retrain_id: int, detail: str) -> None:
        """Store the state of monitoring as text, if it has changed."""
        self._execute(
            "UPDATE retrains SET watch_detail = %(detail)s "
            "WHERE retrain_id = %(id)s AND watch_detail IS DISTINCT FROM %(detail)s",
            {"detail": detail, "id": retrain_id},
        )

    def record_comparison(self, retrain_id: int, target: str, outcomes: int, detail: str) -> None:
        """Store a comparison and its number of outcomes, which determines the next one."""
        self._execute(
            "UPDATE retrains SET watch_looks = watch_looks || %s::jsonb, watch_detail = %s WHERE retrain_id = %s",
            (json.dumps({target: outcomes}), detail, retrain_id),
        )

    def end_watch(self, retrain_id: int, state: WatchEnd, detail: str) -> None:
        """Record the result of promotion monitoring."""
        self._execute(
            "UPDATE retrains SET watch = %s, watch_detail = %s, watch_ended_at = now() WHERE retrain_id = %s",
            (state, detail, retrain_id),
        )

    def _fetch_one(self, sql: str, values: Any = None) -> tuple[Any, ...]:
        rows = self._fetch_all(sql, values)
        return rows[0] if rows else (None,)

    def _fetch_all(self, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
        with self.transaction() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall()

    def _execute(self, sql: str, values: Any = None) -> None:
        with self.transaction() as cursor:
            cursor.execute(sql, values)


_HELD_LOCK = f"""
    SELECT l.pid FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {_ADVISORY_LOCK >> 32}
      AND l.objid = {_ADVISORY_LOCK & 0xFFFF_FFFF} AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - constant text
