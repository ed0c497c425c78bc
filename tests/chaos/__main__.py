"""`python -m tests.chaos`: kill every process of the twin at random times and check the stores for lost data.

Real servers, two live simulators, the prediction service, the stream scorer and the database predictor run on this
machine; each is repeatedly killed with SIGKILL and restarted after a pause, as by a supervisor.  Meanwhile models are
promoted and a disk is full for a while.  Before that, a few hundred power cuts of a spool in use are simulated.
Exits with 1 if acknowledged data is lost or duplicated.
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
from tests.chaos.power_cut import PowerCutReport, simulate_power_cuts, trace_spool
from tests.chaos.small_disk import SmallDisk, small_disk
from tests.chaos.supervisor import Supervisor
from tests.chaos.system_under_test import running_twin

#: Ranges of the time between two kills, of the time before a killed process is restarted, and of a full disk.
GAP_S, PAUSE_S, FULL_DISK_S = (1.0, 9.0), (0.2, 6.0), (4.0, 8.0)
_QUIET_S = 5.0
_TRACED_BATCHES = 400


@dataclass
class ChaosReport:
    """What was done during a chaos run, and the comparison of the stores afterwards.

    Attributes:
        counts: by prediction path.
        quarantined: rows that a sink rejected.
        promoted: promotions that succeeded.
        failed_promotions: types of the errors of the others.
        full_disks: how often the disk was full.
        no_disk: reason why no disk could be filled, if so.
    """

    supervisor: Supervisor
    counts: dict[str, Count]
    quarantined: int
    promoted: list[str] = field(default_factory=list)
    failed_promotions: list[str] = field(default_factory=list)
    full_disks: int = 0
    no_disk: str | None = None

    @property
    def is_consistent(self) -> bool:
        """On every path data was acknowledged, and none was quarantined, lost or duplicated."""
        counts = self.counts.values()
        return not self.quarantined and all(count.acknowledged and count.is_consistent for count in counts)


def chaos(seed: int, kills: int, folder: Path, console: Console) -> ChaosReport:
    """Start all processes, kill `kills` times, drain the spools, and compare the stores.

    Raises:
        TwinError: a process does not start, or a spool does not drain.
    """
    rng = random.Random(seed)
    disk, no_disk = None, None
    with ExitStack() as stack:
        simulator_folder = folder / "simulator"
        try:
            disk = stack.enter_context(small_disk(simulator_folder, "96m"))
        except PermissionError as error:
            no_disk = str(error)
        twin = stack.enter_context(running_twin(folder, simulator_folder))
        supervisor = twin.supervisor
        report = ChaosReport(supervisor, {}, 0, no_disk=no_disk)
        started = time.monotonic()
        promotion: Future[str] | None = None
        full_until: float | None = None
        plan = _plan(sorted(supervisor.servers), kills, rng)
        full_at = set(rng.sample(range(kills), min(2, kills)))
        for number, planned in enumerate(plan):
            time.sleep(rng.uniform(*GAP_S))
            full_until = _free_disk_when_due(disk, full_until)
            if number in full_at and disk is not None:
                disk.fill()
                full_until = time.monotonic() + rng.uniform(*FULL_DISK_S)
                report.full_disks += 1
            if number % 3 == 2:
                promotion = _record_if_done(promotion, report) or supervisor.pool.submit(twin.promote, rng)
            running = supervisor.running
            name = planned if planned in running else rng.choice(running)
            pause_s = rng.uniform(*PAUSE_S)
            supervisor.kill(name, pause_s)
            down = sorted(supervisor.servers.keys() - set(supervisor.running))
            full = ", disk full" if full_until is not None else ""
            console.print(
                f"{time.monotonic() - started:6.1f} s  kill {number + 1:2d} of {kills}: {name}, restart in "
                f"{pause_s:.1f} s (now down: {', '.join(down)}{full})",
                highlight=False,
            )
        while _free_disk_when_due(disk, full_until) is not None:
            time.sleep(0.1)
        time.sleep(_QUIET_S)
        console.print(f"{time.monotonic() - started:6.1f} s  no more kills: draining the spools", highlight=False)
        twin.drain()
        while (promotion := _record_if_done(promotion, report)) is not None:
            time.sleep(0.1)
        console.print(f"{time.monotonic() - started:6.1f} s  comparing the stores", highlight=False)
        report.counts = twin.count()
        report.quarantined = twin.quarantined()
        return report


def _plan(names: Sequence[str], kills: int, rng: random.Random) -> list[str]:
    """Names of the processes to kill: each equally often, in random order."""
    rounds = [rng.sample(list(names), len(names)) for _ in range(kills // len(names) + 1)]
    return [name for one_round in rounds for name in one_round][:kills]


def _free_disk_when_due(disk: SmallDisk | None, full_until: float | None) -> float | None:
    if disk is not None and full_until is not None and time.monotonic() > full_until:
        disk.make_room()
        return None
    return full_until


def _record_if_done(promotion: Future[str] | None, report: ChaosReport) -> Future[str] | None:
    """Record the outcome of a finished promotion; returns the promotion if it is still running."""
    if promotion is None or not promotion.done():
        return promotion
    error = promotion.exception()
    if error is None:
        report.promoted.append(promotion.result())
    else:  # a server of the registry was unavailable
        report.failed_promotions.append(type(error).__name__)
    return None


def print_report(console: Console, report: ChaosReport) -> None:
    """Print the kills by process and the counts by prediction path."""
    processes = Table(title="killed")
    for column in ("process", "kills", "unexpected exits", "failed starts"):
        processes.add_column(column, justify="left" if column == "process" else "right")
    supervisor = report.supervisor
    for name in sorted(supervisor.servers):
        figures = (supervisor.kills[name], supervisor.exits[name], supervisor.failed_starts[name])
        processes.add_row(name, *map(str, figures))
    processes.add_section()
    totals = (supervisor.kills.total(), supervisor.exits.total(), supervisor.failed_starts.total())
    processes.add_row("all", *map(str, totals))
    console.print(processes)
    counts = Table(title="in the stores")
    counts.add_column("")
    for name in report.counts:
        counts.add_column(name, justify="right")
    for figures in zip(*(count.table() for count in report.counts.values()), strict=True):
        counts.add_row(figures[0][0], *(str(value) for _, value in figures))
    console.print(counts)
    promoted, failed = len(report.promoted), len(report.failed_promotions)
    console.print(f"promotions: {promoted}, and {failed} that failed because a server of the registry was unavailable")
    full = report.no_disk or f"{report.full_disks} times"
    console.print(f"disk full: {full}; rows quarantined by a sink: {report.quarantined}")
    lost = sum(count.all_lost for count in report.counts.values())
    duplicated = sum(count.all_duplicated for count in report.counts.values())
    console.print(
        f"[bold]{supervisor.kills.total()} kills: {lost} lost, {duplicated} duplicated[/bold]", highlight=False
    )


def power_cuts(seed: int, cuts: int, console: Console) -> PowerCutReport | None:
    """Simulate power cuts of a spool; None if processes cannot be traced here."""
    if reason := cannot_trace():
        console.print(f"power cuts: skipped: {reason}")
        return None
    events = trace_spool(_TRACED_BATCHES, seed)
    console.print(f"power cuts: {len(events)} events of a spool in use", highlight=False)
    report = simulate_power_cuts(events, seed, cuts)
    console.print(
        f"power cuts: {report.cuts}, after {report.acknowledged} acknowledgements in all: {report.lost} lost, "
        f"{report.duplicated} duplicated, {len(report.damaged)} damaged",
        highlight=False,
    )
    for reason in report.damaged[:3]:
        console.print(f"  {reason}", highlight=False)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """0 if nothing was lost or duplicated, 1 if something was, 2 if the run was not possible."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="random seed (default 1)")
    parser.add_argument("--kills", type=int, default=30, help="number of kills (default 30)")
    parser.add_argument("--cuts", type=int, default=400, help="number of power cuts of the spool (default 400)")
    parser.add_argument("--keep", type=Path, help="empty folder for data and logs, which are then not deleted")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for verbose in ("kafka", "httpx", "telemetry", "urllib3"):
        logging.getLogger(verbose).setLevel(logging.ERROR)
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
    return 0 if report.is_consistent and (cut is None or cut.lost_nothing) else 1


if __name__ == "__main__":
    sys.exit(main())
