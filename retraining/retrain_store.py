"""The telemetry store as the retraining sees it: what drifts, what was tried before, and the lock that one may hold."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg2
import psycopg2.extensions
from psycopg2.extras import Json

from features.targets import TARGETS
from monitoring.drift import windows
from retraining.champion_comparison import PairedLoss
from retraining.trigger import DetectedDrift, RetrainHistory
from telemetry.stores.liveness import NOTICE_LOST_CLIENT

OutcomeName = Literal["promoted", "not_promoted", "failed", "stopped"]
WatchEnd = Literal["passed", "rolled_back", "superseded"]

#: Any number, the same for everyone: one training a store, whichever machine it runs on.
_ADVISORY_LOCK = 7_308_021
_STATEMENT_TIMEOUT_MS = 60_000
#: PostgreSQL cuts a longer name of a session.
_NAME_BYTES = 63


@dataclass(frozen=True)
class WatchedPromotion:
    """A promotion whose release is still compared with the one before it.

    Attributes:
        release, before: that was promoted, and that it replaced.
        since: event time up to which the new models had learned; nothing that they said is older.
        versions: by target, the new and the old version of the model.
        looks: by target, how many outcomes there were at the last comparison.
        began: event time that the fleet had reached when the watch began; None where it has only now.
    """

    retrain_id: int
    release: int
    before: int
    since: datetime | None
    versions: Mapping[str, tuple[int, int]]
    looks: Mapping[str, int]
    began: datetime | None


class RetrainStore:
    """One session on the telemetry store, opened when first needed.  Errors are those of psycopg2.

    The lock lasts as long as the session: it is given up by `unlock`, by `close` and by whatever ends the process.

    Args:
        by: who the records name.
    """

    def __init__(self, dsn: str, domain: str, by: str) -> None:
        self._dsn = dsn
        self._domain = domain
        self._by = by
        self._host = platform.node()
        self._connection: psycopg2.extensions.connection | None = None

    # The lock

    def try_lock(self) -> bool:
        """Become the one that trains and promotes; False while somebody else is."""
        return bool(self._one("SELECT pg_try_advisory_lock(%s)", (_ADVISORY_LOCK,))[0])

    def unlock(self) -> None:
        """Let others train; nothing where the session was lost, and the lock with it."""
        if self._connection is not None and not self._connection.closed:
            self._one("SELECT pg_advisory_unlock(%s)", (_ADVISORY_LOCK,))

    def holds_lock(self) -> bool:
        """False once the session was lost, and the lock with it."""
        if self._connection is None or self._connection.closed:
            return False
        try:
            return bool(self._one(f"SELECT EXISTS ({_HELD} AND l.pid = pg_backend_pid())")[0])
        except psycopg2.Error:
            return False

    def holder(self) -> str | None:
        """Who holds the lock, as its session calls itself; None where nobody does."""
        row = self._all(f"SELECT a.application_name, a.pid FROM ({_HELD}) l JOIN pg_stat_activity a USING (pid)")  # noqa: S608
        return None if not row else row[0][0] or f"session {row[0][1]} of the store"

    def close(self) -> None:
        """Close the session, and with it give up the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # What drifts

    def clock(self, batteries: int) -> datetime | None:
        """Event time that so many batteries have reached; None where fewer have sent anything."""
        return windows.clock(self._session(), batteries)

    def drifts(self) -> list[DetectedDrift]:
        """Which models of this domain drift now, with the newest window of each."""
        rows = self._all(
            """
            SELECT s.target, s.kind, s.score, s.threshold, w.window_start, s.model_version
            FROM drift_status s
            JOIN drift_windows w USING (target, kind, model_name, model_version, window_end)
            WHERE s.is_drifting AND s.model_name = %s || '-' || s.target ORDER BY s.target, s.kind
            """,
            (self._domain,),
        )
        return [DetectedDrift(*row) for row in rows]

    def fleet(self, cadence: Literal["reading", "cycle"], at_most: int) -> list[str]:
        """Batteries that a model of this cadence may learn from, in the order of their names."""
        has_cycles = "OR EXISTS (SELECT FROM battery_cycles c WHERE c.battery_id = b.battery_id)"
        rows = self._all(
            "SELECT b.battery_id FROM batteries b WHERE EXISTS (SELECT FROM ev_telemetry t "  # noqa: S608 - our own words
            "WHERE t.battery_id = b.battery_id AND t.voltage IS NOT NULL) "
            f"{has_cycles if cadence == 'cycle' else ''} ORDER BY b.battery_id LIMIT %s",
            (at_most,),
        )
        return [battery_id for (battery_id,) in rows]

    def past(self) -> RetrainHistory:
        """The trainings so far."""
        ended_at, data_until = self._one(
            "SELECT max(ended_at) FILTER (WHERE outcome <> 'stopped'), "
            "max(data_until) FILTER (WHERE outcome IN ('promoted', 'not_promoted')) FROM retrains WHERE domain = %s",
            (self._domain,),
        )
        (unchanged,) = self._one(
            """
            SELECT count(*) FROM retrains
            WHERE domain = %(domain)s AND outcome <> 'stopped' AND retrain_id > COALESCE(
                (SELECT max(retrain_id) FROM retrains WHERE domain = %(domain)s AND outcome = 'promoted'
                 AND watch IS DISTINCT FROM 'rolled_back'), 0)
            """,
            {"domain": self._domain},
        )
        return RetrainHistory(ended_at, data_until, unchanged)

    # One training

    def abandoned(self) -> list[tuple[int, str]]:
        """Trainings whose process is gone, and why they ended; only for the holder of the lock."""
        rows = self._all(
            """
            SELECT retrain_id, COALESCE(error,
                'it ended without a word: its process on ' || host || ' was stopped, or lost its session on the store')
            FROM retrains WHERE ended_at IS NULL AND domain = %s ORDER BY retrain_id
            """,
            (self._domain,),
        )
        return [(number, error) for number, error in rows]

    def begin(self, reason: str, drifts: Sequence[DetectedDrift], release: int | None) -> int:
        """Record that a training begins; its number."""
        shown = [vars(one) | {"window_start": one.window_start.isoformat()} for one in drifts]
        (retrain_id,) = self._one(
            "INSERT INTO retrains (domain, host, started_by, reason, drift, release_before) "
            "VALUES (%s, %s, %s, %s, %s, %s) RETURNING retrain_id",
            (self._domain, self._host, self._by, reason, Json(shown), release),
        )
        return int(retrain_id)

    def note(
        self,
        retrain_id: int,
        *,
        run_id: str | None = None,
        data_until: datetime | None = None,
        error: str | None = None,
    ) -> None:
        """Add what is known by now."""
        self._execute(
            "UPDATE retrains SET run_id = COALESCE(%s, run_id), data_until = COALESCE(%s, data_until), "
            "error = COALESCE(%s, error) WHERE retrain_id = %s",
            (run_id, data_until, error, retrain_id),
        )

    def end(
        self,
        retrain_id: int,
        outcome: OutcomeName,
        *,
        detail: str | None = None,
        error: str | None = None,
        release: int | None = None,
        before: int | None = None,
        watched: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """Record how it ended, once; with `watched`, the promotion is compared with its predecessor from now on.

        A promotion is recorded also where somebody else has given the training up meanwhile: it serves.

        Args:
            release: that serves afterwards.
            before: that it replaced; None: the one that served when the training began.
        """
        self._execute(
            """
            UPDATE retrains SET ended_at = now(), outcome = %(outcome)s, detail = %(detail)s, error = %(error)s,
                release_after = %(release)s, release_before = COALESCE(%(before)s, release_before),
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
                "before": before,
                "watch": "watching" if watched else None,
                "watched": Json({target: list(pair) for target, pair in watched.items()}) if watched else None,
            },
        )

    # The watch over a promotion

    def watched(self) -> list[WatchedPromotion]:
        """Promotions that are compared still, oldest first."""
        rows = self._all(
            "SELECT retrain_id, release_after, release_before, data_until, watched, watch_looks, watch_from "
            "FROM retrains WHERE domain = %s AND watch = 'watching' ORDER BY retrain_id",
            (self._domain,),
        )
        return [
            WatchedPromotion(
                number, after, before, since, {target: (new, old) for target, (new, old) in pairs.items()}, looks, began
            )
            for number, after, before, since, pairs, looks, began in rows
        ]

    def begin_watch(self, retrain_id: int, reached: datetime) -> None:
        """Remember from which event time on a promotion is watched."""
        self._execute(
            "UPDATE retrains SET watch_from = COALESCE(watch_from, %s) WHERE retrain_id = %s", (reached, retrain_id)
        )

    def paired(self, target: str, new: int, old: int, since: datetime | None) -> list[PairedLoss]:
        """Losses of champion `new` and of its shadow `old` on the same moments from `since` on, by battery."""
        loss = "power({0}.error, 2)" if TARGETS[target].kind == "classification" else "abs({0}.error)"
        rows = self._all(
            f"""
            SELECT n.battery_id, count(*), avg({loss.format("n")}), avg({loss.format("o")})
            FROM prediction_outcomes n
            JOIN prediction_outcomes o USING (battery_id, target, time)
            WHERE n.target = %s AND n.role = 'champion' AND o.role = 'challenger'
              AND n.model_name = %s AND n.model_version = %s AND o.model_name = n.model_name AND o.model_version = %s
              AND n.matured_at >= COALESCE(%s::timestamptz, '-infinity')
            GROUP BY n.battery_id ORDER BY n.battery_id
            """,  # noqa: S608 - our own words
            (target, f"{self._domain}-{target}", str(new), str(old), since),
        )
        return [PairedLoss(*row) for row in rows]

    def has_outcomes(self, target: str, version: int, since: datetime | None, count: int) -> bool:
        """Whether `count` truths are known of what champion `version` predicted from `since` on, shadow or not."""
        (known,) = self._one(
            "SELECT count(*) FROM (SELECT FROM prediction_outcomes WHERE target = %s AND role = 'champion' "
            "AND model_name = %s AND model_version = %s "
            "AND matured_at >= COALESCE(%s::timestamptz, '-infinity') LIMIT %s) few",
            (target, f"{self._domain}-{target}", str(version), since, count),
        )
        return bool(known >= count)

    def explain_watch(self, retrain_id: int, detail: str) -> None:
        """Say where a watch stands; nothing is written where that was said already."""
        self._execute(
            "UPDATE retrains SET watch_detail = %(detail)s "
            "WHERE retrain_id = %(id)s AND watch_detail IS DISTINCT FROM %(detail)s",
            {"detail": detail, "id": retrain_id},
        )

    def looked(self, retrain_id: int, target: str, outcomes: int, detail: str) -> None:
        """Remember a comparison, so that the next is made when there is twice as much to compare."""
        self._execute(
            "UPDATE retrains SET watch_looks = watch_looks || %s::jsonb, watch_detail = %s WHERE retrain_id = %s",
            (json.dumps({target: outcomes}), detail, retrain_id),
        )

    def end_watch(self, retrain_id: int, how: WatchEnd, detail: str) -> None:
        """Record how the watch ended."""
        self._execute(
            "UPDATE retrains SET watch = %s, watch_detail = %s, watch_ended_at = now() WHERE retrain_id = %s",
            (how, detail, retrain_id),
        )

    def _one(self, sql: str, values: Any = None) -> tuple[Any, ...]:
        return self._execute(sql, values).fetchone() or (None,)

    def _all(self, sql: str, values: Any = None) -> list[tuple[Any, ...]]:
        return self._execute(sql, values).fetchall()

    def _execute(self, sql: str, values: Any = None) -> psycopg2.extensions.cursor:
        connection = self._session()
        try:
            cursor: psycopg2.extensions.cursor = connection.cursor()
            cursor.execute(sql, values)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            connection.close()
            raise
        return cursor

    def _session(self) -> psycopg2.extensions.connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg2.extensions.connection:
        name = f"retrain by {self._by} on {self._host}, process {os.getpid()}"
        connection = psycopg2.connect(
            self._dsn,
            application_name=name.encode()[:_NAME_BYTES].decode(errors="ignore"),
            connect_timeout=10,
            # The session is silent while a model is trained: who is gone is noticed within about a minute.
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
        # Each statement for itself: an open transaction would hold up the store for as long as a training takes.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                f"{NOTICE_LOST_CLIENT}; SET statement_timeout = {_STATEMENT_TIMEOUT_MS}; SET TIME ZONE 'UTC'"
            )
        return connection


_HELD = f"""
    SELECT l.pid FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {_ADVISORY_LOCK >> 32}
      AND l.objid = {_ADVISORY_LOCK & 0xFFFF_FFFF} AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - our own words
