"""Command line of automatic retraining: retrain on drift, promote through the gate, roll back a worse champion.

    python -m retraining                              # run until stopped
    python -m retraining --once                       # check once, and train if a model drifts
    python -m retraining --reason "new battery model" # train once, with or without drift

It polls `drift_status`, trains on a snapshot of the telemetry store in an isolated workspace, and the registry's gate
decides on promotion.  Any number may run, on any machines: an advisory lock admits one at a time.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg2

from retraining.retrainer import open_retrainer
from telemetry.command import exit_code, stop_on_signals
from telemetry.embedded.postgres import ensure_telemetry_store
from telemetry.parameters import load_params
from telemetry.settings import Settings
from training.params import start_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; exit code 1 if a training failed or a requested one did not start, 2 on errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="check once, then exit")
    parser.add_argument("--reason", help="train once, with or without drift; every target may be promoted")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="sections retrain, rollback, ...")
    options = parser.parse_args(argv)
    start_logging()
    return exit_code(lambda: _run(options, stop_on_signals()), psycopg2.Error)


def _run(options: argparse.Namespace, stop: threading.Event) -> int:
    with ExitStack() as stack:
        settings = stack.enter_context(ensure_telemetry_store(Settings()))
        retrainer = stack.enter_context(open_retrainer(settings, load_params(options.params), stop))
        if options.once or options.reason is not None:
            result = retrainer.run_once(options.reason)
            failed = options.reason is not None if result is None else result.error is not None
            return int(failed)
        retrainer.run(settings.retrain_interval_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
