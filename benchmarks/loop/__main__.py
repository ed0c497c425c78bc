"""Command of `make loop`: run the retraining loop at high speed on embedded servers, report it and plot it.

python -m benchmarks.loop --figure docs/images/loop.png
python -m benchmarks.loop --scenario none --hours 50   # nothing changes: number of needless trainings
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.loop.demonstration import LoopOptions, run_demonstration
from benchmarks.loop.plot import plot_result
from telemetry.errors import TwinError

_NO_SCENARIO = "none"
#: Factor on the expected duration as timeout, for machines that cannot keep up.
_TIMEOUT_FACTOR = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop; 0 on success, 1 otherwise, 2 if it cannot start.

    Success: a better model is promoted, or, without a scenario, at most one training runs; and no request fails.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="plot file (default: docs/images/loop.png, with a scenario)")
    parser.add_argument("--batteries", type=int, default=LoopOptions.batteries)
    parser.add_argument("--speed", type=float, default=LoopOptions.speed, help="event time per wall-clock time")
    parser.add_argument("--scenario", choices=(LoopOptions.scenario, _NO_SCENARIO), default=LoopOptions.scenario)
    parser.add_argument(
        "--hours", type=float, default=LoopOptions.after_h, help="event time after the promotion, or in total"
    )
    parser.add_argument("--keep", type=Path, help="new folder for store, registry and logs")
    arguments = parser.parse_args(argv)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="twin-loop-") as scratch:
        try:
            options = _options(arguments)
            result = run_demonstration(arguments.keep or Path(scratch) / "var", Path.cwd(), options, console)
        except TwinError as error:
            console.print(error.sentence, style="red", markup=False, soft_wrap=True)
            return 2
    if arguments.figure is not None or options.scenario is not None:
        plot_result(result, arguments.figure or Path("docs/images/loop.png"))
    log = result.requests
    requests = f"{sum(log.responses.values())} requests succeeded, {len(log.failures)} failed"
    if options.scenario is None:
        report = (
            f"{result.windows} drift windows without a change, {result.windows_out} of them out of bounds in inputs, "
            f"predictions or errors; {result.retrains} trainings; {requests}"
        )
        is_success = result.windows > 0 and result.retrains <= 1 and not log.failures
    else:
        before, during = result.mean_error(None, result.shifted), result.mean_error(result.shifted, result.promoted)
        after, shadow = result.mean_error(result.promoted, None), result.mean_error(result.promoted, None, "challenger")
        report = (
            f"error of the forecast: {before:.3f} °C before, {during:.3f} °C after the shift, {after:.3f} °C after the "
            f"promotion ({shadow:.3f} °C by the replaced model); {requests}"
        )
        is_success = result.promoted is not None and not log.failures and after < during
    console.print(report, highlight=False, soft_wrap=True)
    return 0 if is_success else 1


def _options(arguments: argparse.Namespace) -> LoopOptions:
    scenario = None if arguments.scenario == _NO_SCENARIO else arguments.scenario
    seconds = (arguments.hours + LoopOptions.before_h) * 3600.0 / arguments.speed
    return LoopOptions(
        batteries=arguments.batteries,
        speed=arguments.speed,
        scenario=scenario,
        after_h=arguments.hours,
        timeout_s=max(LoopOptions.timeout_s, _TIMEOUT_FACTOR * seconds),
    )


if __name__ == "__main__":
    sys.exit(main())
