"""`make loop`: live the loop at high speed on embedded parts, say what happens, and draw it.

python -m benchmarks.loop --figure docs/images/loop.png
python -m benchmarks.loop --regime none --hours 50     # nothing changes: how often is trained for nothing?
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.loop.figure import draw
from benchmarks.loop.scenario import LoopOptions, run_scenario
from telemetry.errors import TwinError

_CALM = "none"
#: A machine that cannot keep up is waited for so many times as long.
_PATIENCE = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 where it ends as it should, 1 otherwise, 2 if it cannot begin.

    It should end with a better model promoted, and where nothing changes with one training at most; every request
    answered.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="where to draw it (default: docs/images/loop.png, if it changes)")
    parser.add_argument("--batteries", type=int, default=LoopOptions.batteries)
    parser.add_argument("--speed", type=float, default=LoopOptions.speed, help="event time against the clock")
    parser.add_argument("--regime", choices=(LoopOptions.regime, _CALM), default=LoopOptions.regime, help="what comes")
    parser.add_argument(
        "--hours", type=float, default=LoopOptions.after_h, help="of event time, after the promotion or in a calm"
    )
    parser.add_argument("--keep", type=Path, help="a new folder for store, registry and logs")
    arguments = parser.parse_args(argv)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="twin-loop-") as scratch:
        try:
            options = _options(arguments)
            result = run_scenario(arguments.keep or Path(scratch) / "var", Path.cwd(), options, console)
        except TwinError as error:
            console.print(error.sentence, style="red", markup=False, soft_wrap=True)
            return 2
    if arguments.figure is not None or options.regime is not None:
        draw(result, arguments.figure or Path("docs/images/loop.png"))
    answered = f"{sum(result.calls.answered.values())} requests answered, {len(result.calls.failures)} failed"
    if options.regime is None:
        said = (
            f"{result.windows} windows in which nothing changed, {result.windows_out} of them out of bounds by what "
            f"the model sees, says or gets wrong; {result.retrains} trainings; {answered}"
        )
        as_it_should = result.windows > 0 and result.retrains <= 1 and not result.calls.failures
    else:
        before, during = result.mean_error(None, result.shifted), result.mean_error(result.shifted, result.promoted)
        after, shadow = result.mean_error(result.promoted, None), result.mean_error(result.promoted, None, "challenger")
        said = (
            f"error of the forecast: {before:.3f} °C before, {during:.3f} °C after the shift, {after:.3f} °C after the "
            f"promotion ({shadow:.3f} °C by the replaced model); {answered}"
        )
        as_it_should = result.promoted is not None and not result.calls.failures and after < during
    console.print(said, highlight=False, soft_wrap=True)
    return 0 if as_it_should else 1


def _options(arguments: argparse.Namespace) -> LoopOptions:
    calm = arguments.regime == _CALM
    seconds = (arguments.hours + LoopOptions.before_h) * 3600.0 / arguments.speed
    return LoopOptions(
        batteries=arguments.batteries,
        speed=arguments.speed,
        regime=None if calm else arguments.regime,
        after_h=arguments.hours,
        timeout_s=max(LoopOptions.timeout_s, _PATIENCE * seconds),
    )


if __name__ == "__main__":
    sys.exit(main())
