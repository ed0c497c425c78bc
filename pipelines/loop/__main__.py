"""`make loop`: live the loop at high speed on embedded parts, say what happens, and draw it.

python -m pipelines.loop --figure docs/images/loop.png
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from data.errors import TwinError
from pipelines.loop.figure import draw
from pipelines.loop.scenario import LoopOptions, run_scenario


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 where a better model was promoted and every request was answered, 1 otherwise, 2 if it cannot begin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=Path("docs/images/loop.png"), help="where to draw it")
    parser.add_argument("--batteries", type=int, default=LoopOptions.batteries)
    parser.add_argument("--speed", type=float, default=LoopOptions.speed, help="event time against the clock")
    parser.add_argument("--keep", type=Path, help="a new folder for store, registry and logs")
    arguments = parser.parse_args(argv)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="twin-loop-") as scratch:
        try:
            options = LoopOptions(batteries=arguments.batteries, speed=arguments.speed)
            result = run_scenario(arguments.keep or Path(scratch) / "var", Path.cwd(), options, console)
        except TwinError as error:
            console.print(error.sentence, style="red", markup=False, soft_wrap=True)
            return 2
    draw(result, arguments.figure)
    before, during = result.mean_error(None, result.shifted), result.mean_error(result.shifted, result.promoted)
    after, shadow = result.mean_error(result.promoted, None), result.mean_error(result.promoted, None, "challenger")
    console.print(
        f"error of the forecast: {before:.3f} °C before, {during:.3f} °C after the shift, {after:.3f} °C after the "
        f"promotion ({shadow:.3f} °C by the replaced model); {sum(result.calls.answered.values())} requests answered, "
        f"{len(result.calls.failures)} failed; {arguments.figure}",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if result.promoted is not None and not result.calls.failures and after < during else 1


if __name__ == "__main__":
    sys.exit(main())
