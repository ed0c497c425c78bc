"""`python -m tests.chaos`: kill every part of the twin at random moments, then count what is in the stores.

Real servers, the live simulator twice, the service, the stream scorer and the database predictor run on this machine;
each is killed by SIGKILL again and again and started again after a pause, as a supervisor does.  Meanwhile models are
promoted and a disk is full for a while.  Before that, the power is cut a few hundred times while a spool is in use.
Exits with 1 if anything that was acknowledged is lost or there twice.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from telemetry.errors import TwinError
from tests.chaos.counting import Count
from tests.chaos.disk import cannot_trace
from tests.chaos.parts import Supervisor
from tests.chaos.planes import running_twin
from tests.chaos.power_cut import Cuts, cut_power, traced_spool
from tests.chaos.small_disk import SmallDisk, small_disk

#: Between two kills, and before what was killed is started again.
GAP_S, PAUSE_S = (1.0, 9.0), (0.2, 6.0)
FULL_S = (4.0, 8.0)
_CALM_S = 5.0
_TRACED_BATCHES = 400


@dataclass
class Report:
    """What was done, and what was found then."""

    kills: Supervisor
    counts: dict[str, Count]
    set_aside: int
    promoted: list[str] = field(default_factory=list)
    not_promoted: list[str] = field(default_factory=list)
    full: int = 0
    disk: str | None = None

    @property
    def is_whole(self) -> bool:
        """Something was acknowledged everywhere, nothing of it was lost and nothing is there twice."""
        counts = self.counts.values()
        return not self.set_aside and all(count.acknowledged and count.is_whole for count in counts)


def chaos(seed: int, kills: int, folder: Path, console: Console) -> Report:
    """Start everything, kill `kills` times, let it come to rest, and count.

    Raises:
        TwinError: something does not start, or does not come to rest.
    """
    rng = random.Random(seed)
    disk, why_not = None, None
    with ExitStack() as stack:
        simulator_folder = folder / "simulator"
        try:
            disk = stack.enter_context(small_disk(simulator_folder, "96m"))
        except PermissionError as error:
            why_not = str(error)
        twin = stack.enter_context(running_twin(folder, simulator_folder))
        supervisor = twin.supervisor
        report = Report(supervisor, {}, 0, disk=why_not)
        began = time.monotonic()
        promoting: Future[str] | None = None
        full_until: float | None = None
        plan = _plan(sorted(supervisor.parts), kills, rng)
        full_at = set(rng.sample(range(kills), min(2, kills)))
        for number, wanted in enumerate(plan):
            time.sleep(rng.uniform(*GAP_S))
            full_until = _have_room(disk, full_until)
            if number in full_at and disk is not None:
                disk.fill()
                full_until = time.monotonic() + rng.uniform(*FULL_S)
                report.full += 1
            if number % 3 == 2:
                promoting = _promoted(promoting, report) or supervisor.pool.submit(twin.promote, rng)
            up = supervisor.up
            name = wanted if wanted in up else rng.choice(up)
            pause_s = rng.uniform(*PAUSE_S)
            supervisor.kill(name, pause_s)
            down = sorted(supervisor.parts.keys() - set(supervisor.up))
            full = ", its disk is full" if full_until is not None else ""
            console.print(
                f"{time.monotonic() - began:6.1f} s  kill {number + 1:2d} of {kills}: {name}, back in {pause_s:.1f} s "
                f"(down now: {', '.join(down)}{full})",
                highlight=False,
            )
        while _have_room(disk, full_until) is not None:
            time.sleep(0.1)
        time.sleep(_CALM_S)
        console.print(f"{time.monotonic() - began:6.1f} s  no more kills: what waits arrives", highlight=False)
        twin.drain()
        while (promoting := _promoted(promoting, report)) is not None:
            time.sleep(0.1)
        console.print(f"{time.monotonic() - began:6.1f} s  counting", highlight=False)
        report.counts = twin.count()
        report.set_aside = twin.set_aside()
        return report


def _plan(parts: Sequence[str], kills: int, rng: random.Random) -> list[str]:
    """Every part as often as any other, in random order."""
    rounds = [rng.sample(list(parts), len(parts)) for _ in range(kills // len(parts) + 1)]
    return [name for names in rounds for name in names][:kills]


def _have_room(disk: SmallDisk | None, full_until: float | None) -> float | None:
    if disk is not None and full_until is not None and time.monotonic() > full_until:
        disk.make_room()
        return None
    return full_until


def _promoted(promoting: Future[str] | None, report: Report) -> Future[str] | None:
    """Note how a promotion went, if there was one; itself, if it still goes."""
    if promoting is None or not promoting.done():
        return promoting
    error = promoting.exception()
    if error is None:
        report.promoted.append(promoting.result())
    else:  # a part of the registry was away
        report.not_promoted.append(type(error).__name__)
    return None


def print_report(console: Console, report: Report) -> None:
    """The kills by part and the counts by plane."""
    parts = Table(title="killed")
    for column in ("part", "kills", "ended by itself", "starts that failed"):
        parts.add_column(column, justify="left" if column == "part" else "right")
    supervisor = report.kills
    for name in sorted(supervisor.parts):
        figures = (supervisor.kills[name], supervisor.ended[name], supervisor.failed_starts[name])
        parts.add_row(name, *map(str, figures))
    parts.add_section()
    totals = (supervisor.kills.total(), supervisor.ended.total(), supervisor.failed_starts.total())
    parts.add_row("all", *map(str, totals))
    console.print(parts)
    counts = Table(title="in the stores")
    counts.add_column("")
    for name in report.counts:
        counts.add_column(name, justify="right")
    for figures in zip(*(count.table() for count in report.counts.values()), strict=True):
        counts.add_row(figures[0][0], *(str(value) for _, value in figures))
    console.print(counts)
    promoted, refused = len(report.promoted), len(report.not_promoted)
    console.print(f"releases promoted meanwhile: {promoted}, and {refused} not: a part of the registry was away")
    console.print(f"disk full: {report.disk or f'{report.full} times'}; rows set aside by a sink: {report.set_aside}")
    lost = sum(count.all_lost for count in report.counts.values())
    doubled = sum(count.all_doubled for count in report.counts.values())
    console.print(f"[bold]{supervisor.kills.total()} kills: {lost} lost, {doubled} doubled[/bold]", highlight=False)


def power_cuts(seed: int, cuts: int, console: Console) -> Cuts | None:
    """Cut the power of a spool; None where that cannot be done here."""
    if reason := cannot_trace():
        console.print(f"power cuts: left out: {reason}")
        return None
    events = traced_spool(_TRACED_BATCHES, seed)
    console.print(f"power cuts: {len(events)} events of a spool in use", highlight=False)
    found = cut_power(events, seed, cuts)
    console.print(
        f"power cuts: {found.cuts}, after {found.acknowledged} acknowledgements in all: {found.lost} lost, "
        f"{found.doubled} doubled, {len(found.damaged)} damaged",
        highlight=False,
    )
    for reason in found.damaged[:3]:
        console.print(f"  {reason}", highlight=False)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """0 if nothing was lost or doubled, 1 if something was, 2 if it could not be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random here (default 1)")
    parser.add_argument("--kills", type=int, default=30, help="how many (default 30)")
    parser.add_argument("--cuts", type=int, default=400, help="power cuts of the spool (default 400)")
    parser.add_argument("--keep", type=Path, help="an empty folder for data and logs, which stay")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for chatty in ("kafka", "httpx", "data", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    console = Console(width=120, soft_wrap=True)
    console.print(f"seed {arguments.seed}", highlight=False)
    cut = power_cuts(arguments.seed, arguments.cuts, console)
    try:
        with ExitStack() as stack:
            folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twin-chaos-")))
            folder.mkdir(parents=True, exist_ok=True)
            report = chaos(arguments.seed, arguments.kills, folder.resolve(), console)
    except TwinError as error:
        console.print(error.sentence, style="red", highlight=False)
        return 2
    print_report(console, report)
    return 0 if report.is_whole and (cut is None or cut.are_harmless) else 1


if __name__ == "__main__":
    sys.exit(main())
