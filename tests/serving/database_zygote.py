"""Starts database predictors that are ready at once, to be killed: `python -m tests.serving.database_zygote DSN VAR`.

Importing, loading and compiling take seconds and happen once; then every line on the standard input makes one more
process by a fork, whose number is printed.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path

import psycopg2

from serving.database.batch import Limits, Worker
from serving.database.batch_loop import run
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import StoreFeed
from serving.predictor import Predictor
from serving.request_scoring import compile_state_update
from serving.scorer import Scorer
from telemetry.settings import Settings
from telemetry.stores.postgres import PostgresStore
from training.release import load_release


class _Releases:
    """The one release of the tests."""

    problem = ""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer: Scorer | None = scorer


def main() -> None:
    dsn, var = sys.argv[1:]
    settings = Settings(var=Path(var))
    releases = _Releases(Scorer(Predictor(load_release(settings.domain, settings=settings))))
    compile_state_update()
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            metrics = DatabaseMetrics()
            worker = Worker(
                PostgresStore(dsn),
                partial(psycopg2.connect, dsn),
                StoreFeed(float("inf")),
                metrics,
                limits=Limits(rows=40, batteries=2, discover_s=0.0),
                predict_past=True,
            )
            run(worker, releases, metrics, 0.01, threading.Event())
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
