"""The loop of the database predictor: batch after batch, a pause when there is nothing, a longer one after trouble."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import psycopg2

from serving.database.batch import Worker
from serving.database.predictor_metrics import DatabaseMetrics
from serving.scorer import Scorer
from telemetry.errors import TwinError

logger = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 30.0


class Releases(Protocol):
    """Who predicts now; `problem` says why nobody does."""

    scorer: Scorer | None
    problem: str


def run(worker: Worker, releases: Releases, metrics: DatabaseMetrics, poll_s: float, stop: threading.Event) -> None:
    """Work until `stop` is set; a batch that was begun is finished.

    Nothing is read without a release: a row that was read and not predicted would never be.
    """
    retry_s = _FIRST_RETRY_S
    problem = ""
    while not stop.is_set():
        if (scorer := releases.scorer) is None:
            problem = _once(releases.problem, problem)
            stop.wait(_FIRST_RETRY_S)
            continue
        try:
            more = worker.work(scorer)
        except (psycopg2.Error, TwinError) as error:
            is_away = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
            metrics.failures.labels("unavailable" if is_away else "refused").inc()
            problem = _once(_first_line(error), problem)
            stop.wait(retry_s)
            retry_s = min(2.0 * retry_s, _LONGEST_RETRY_S)
            continue
        if problem:
            logger.info("goes on")
        problem, retry_s = "", _FIRST_RETRY_S
        if not more:
            stop.wait(poll_s)


def _once(now: str, before: str) -> str:
    if now != before:
        logger.error("%s", now)
    return now


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
