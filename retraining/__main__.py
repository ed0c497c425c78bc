"""Train by itself when a model drifts, and take the promotion back where it was a mistake.

    python -m retraining                              # watch, until it is stopped
    python -m retraining --once                       # look once, and train if something drifts
    python -m retraining --reason "new battery model" # train once, whatever drifts

It follows `drift_status`, trains on a copy of the telemetry store in a workspace of its own, and leaves the rest to the
gate of the registry.  Any number may run, on any machines: one of them works at a time.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg2

from retraining.retrainer import retraining
from telemetry.embedded.telemetry_store import store_named
from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.params import load_params, start_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until SIGINT or SIGTERM; 1 where a training failed or did not begin though asked for, 2 if it cannot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="look once, and end")
    parser.add_argument("--reason", help="train once, for this reason, whatever drifts; every target may be promoted")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="sections retrain, rollback, ...")
    options = parser.parse_args(argv)
    start_logging()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        with ExitStack() as stack:
            settings = stack.enter_context(store_named(Settings()))
            retrainer = stack.enter_context(retraining(settings, load_params(options.params), stop))
            if options.once or options.reason is not None:
                done = retrainer.look(options.reason)
                did_not = options.reason is not None if done is None else done.error is not None
                return int(did_not)
            retrainer.run(settings.retrain_interval_s)
    except (TwinError, psycopg2.Error) as error:
        print(str(error).strip(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
