"""Fork server for database predictors that tests kill: `python -m tests.serving.database_fork_server DSN VAR`.

It imports, loads and compiles once, which takes seconds.  Then it forks a process for each line on the standard input
and prints its process id.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from serving.database.batch import BatchLimits, BatchWorker
from serving.database.batch_loop import run_worker
from serving.database.predictor_metrics import DatabaseMetrics
from serving.database.row_source import StoreRowSource
from serving.predictor import Predictor
from serving.request_scoring import compile_state_update
from serving.scorer import Scorer
from serving.state_restore import StateRestorer
from telemetry.settings import Settings
from telemetry.stores.connection import StoreConnection
from telemetry.stores.postgres import PostgresStore
from training.release import load_release


class _FixedScorer:
    """A scorer source whose scorer never changes."""

    problem = ""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer: Scorer | None = scorer


def main() -> None:
    dsn, var = sys.argv[1:]
    settings = Settings(var=Path(var))
    source = _FixedScorer(Scorer(Predictor(load_release(settings.domain, settings=settings))))
    compile_state_update()
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            metrics = DatabaseMetrics()
            worker = BatchWorker(
                PostgresStore(dsn),
                StateRestorer(StoreConnection(dsn, "test")),
                StoreRowSource(float("inf")),
                metrics,
                limits=BatchLimits(rows=40, batteries=2, discover_s=0.0),
                predict_past=True,
            )
            run_worker(worker, source, metrics, 0.01, threading.Event())
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
