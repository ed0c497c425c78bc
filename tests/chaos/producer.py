"""`python -m tests.chaos.producer LEDGER ...`: the live simulator with a ledger of what its spool acknowledged.

The other arguments are passed to `python -m simulator.live`, which is otherwise unchanged.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from threading import Event

from rich.console import Console

import simulator.live
from simulator.live import LiveOptions, run_live
from simulator.terminal import LineView
from telemetry.settings import Settings
from tests.chaos.ledger import Ledger, LedgerSpool
from tests.simulator.counting_battery import CountingBattery


def main() -> int:
    """Run until stopped or killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.producer", description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--simple", type=int, metavar="N", help="N batteries without physics, which start at once")
    arguments, live = parser.parse_known_args()
    simulator.live.Spool = partial(LedgerSpool, ledger=Ledger(arguments.ledger))  # type: ignore[misc]
    if arguments.simple is None:
        # The stores must hold what the ledger holds: no history, and no battery that is silent.
        return simulator.live.main([*live, "--no-history", "--healthy"])
    batteries = [CountingBattery(number) for number in range(arguments.simple)]
    run_live(
        batteries, Settings(), LiveOptions(interval_s=0.02, predicts=False), LineView(Console(quiet=True)), Event()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
