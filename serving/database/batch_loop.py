"""Main loop of the database predictor: runs batches, polls for new rows and backs off on errors."""

from __future__ import annotations

import logging
import threading

import psycopg2

from serving.database.batch import BatchWorker
from serving.database.predictor_metrics import DatabaseMetrics
from serving.scorer import ScorerSource
from serving.state_restore import RestoreIncompleteError
from telemetry.backoff import backoff
from telemetry.errors import TwinError

logger = logging.getLogger(__name__)

_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0


def run_worker(
    worker: BatchWorker, scorer_source: ScorerSource, metrics: DatabaseMetrics, poll_s: float, stop: threading.Event
) -> None:
    """Run batches until `stop` is set; a batch in progress is finished.

    No rows are read without a release, because a row is predicted only when it is read.
    """
    pauses_s = backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
    problem = ""
    while not stop.is_set():
        if (scorer := scorer_source.scorer) is None:
            problem = _log_if_new(scorer_source.problem, problem)
            stop.wait(_MIN_BACKOFF_S)
            continue
        try:
            more = worker.run_batch(scorer)
        except RestoreIncompleteError as error:
            logger.info("%s; continuing", error)
            continue
        except (psycopg2.Error, TwinError) as error:
            unavailable = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
            metrics.failures.labels("unavailable" if unavailable else "refused").inc()
            problem = _log_if_new(_first_line(error), problem)
            stop.wait(next(pauses_s))
            continue
        if problem:
            logger.info("recovered")
        problem, pauses_s = "", backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        if not more:
            stop.wait(poll_s)


def _log_if_new(problem: str, previous: str) -> str:
    if problem != previous:
        logger.error("%s", problem)
    return problem


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
