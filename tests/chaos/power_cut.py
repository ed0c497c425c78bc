"""Simulate power cuts of a spool: reopened on a possible disk content, it must have everything it acknowledged."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.batch import Batch
from telemetry.spool.spool import MIN_BYTES, Spool
from tests.chaos.disk import Changed, Disk, Event, OutputLine, Synced, trace_process
from tests.chaos.spool_writer import DONE, PREDICTOR, number_of
from tests.telemetry.spool.rows import CONSUMERS, reading

_ROOT = Path(__file__).resolve().parents[2]
_EVERYTHING = 10**6


@dataclass
class Acknowledgements:
    """Acknowledgements printed before the power cut.

    Attributes:
        readings, predictions: number of acknowledged readings and predictions.
        stored: by kind, numbers of the rows in the store.
    """

    readings: int = 0
    predictions: int = 0
    stored: dict[str, set[int]] = field(default_factory=lambda: {"reading": set(), "prediction": set()})

    def add(self, output: OutputLine) -> None:
        """Add the next line of `tests.chaos.spool_writer`."""
        what, *rest = output.line.split()
        if what == "acknowledged":
            self.readings = int(rest[0])
        elif what == "predicted":
            self.predictions = int(rest[0])
        else:
            self.stored[rest[0]].add(int(rest[1]))


@dataclass
class PowerCutReport:
    """Findings after power cuts.

    Attributes:
        cuts: number of power cuts.
        acknowledged: readings and predictions acknowledged before the cuts, summed over all cuts.
        lost: how many of those are neither in the store nor in the spool.
        duplicated: rows that are in the spool twice, or from which would be predicted a second time.
        damaged: spools that could not be opened, with the reason.
    """

    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    damaged: list[str] = field(default_factory=list)

    @property
    def lost_nothing(self) -> bool:
        """Whether nothing was lost, duplicated or damaged."""
        return not (self.lost or self.duplicated or self.damaged)


def trace_spool(batches: int, seed: int) -> list[Event]:
    """Trace of a process that appends `batches` batches to a spool and consumes them."""
    with tempfile.TemporaryDirectory(prefix="twin-chaos-") as name:
        folder = Path(name) / "spool"
        folder.mkdir()
        writer = [sys.executable, "-m", "tests.chaos.spool_writer", str(folder), str(batches), str(seed)]
        return trace_process(writer, folder, Path(name) / "trace", _ROOT)


def simulate_power_cuts(
    events: Sequence[Event],
    seed: int,
    cuts: int,
    *,
    honours_sync: bool = True,
    progress: Callable[[PowerCutReport], None] = lambda _: None,
) -> PowerCutReport:
    """Cut the power `cuts` times during `events`, each time with another disk content, and reopen the spool.

    Args:
        honours_sync: False for a disk that reports a sync without doing it.
    """
    rng = random.Random(seed)
    cut_before = sorted(_choose_events(events, cuts, rng))
    report, disk, acknowledged = PowerCutReport(), Disk(honours_sync=honours_sync), Acknowledgements()
    memory = Path("/dev/shm")  # noqa: S108 - nothing secret
    for number, event in enumerate(events):
        while cut_before and cut_before[0] == number:
            cut_before.pop(0)
            with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
                disk.cut(rng, Path(folder))
                _check_spool(Path(folder), acknowledged, report)
            progress(report)
        if isinstance(event, OutputLine):
            acknowledged.add(event)
        else:
            disk.apply(event)
    return report


def _choose_events(events: Sequence[Event], cuts: int, rng: random.Random) -> Iterator[int]:
    """Indices of the events before which the power is cut: half at random, half near critical events."""
    critical = [number for number, event in enumerate(events) if _is_critical(event)]
    for cut in range(cuts):
        if cut % 2 and critical:
            yield min(rng.choice(critical) + rng.randrange(2), len(events) - 1)
        else:
            yield rng.randrange(len(events))


def _is_critical(event: Event) -> bool:
    """Whether an event belongs to the creation of the database or to a checkpoint of its write-ahead log."""
    if isinstance(event, Changed):
        return not event.name.endswith("-wal") or not hasattr(event.change, "data")
    return isinstance(event, Synced) and not event.name.endswith("-wal")


def _check_spool(folder: Path, acknowledged: Acknowledgements, report: PowerCutReport) -> None:
    report.cuts += 1
    report.acknowledged += acknowledged.readings + acknowledged.predictions
    try:
        spool = Spool(folder / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    except Exception as error:  # noqa: BLE001 - a spool that cannot be opened has lost what it held
        report.damaged.append(f"{type(error).__name__}: {error}")
        return
    try:
        waiting: dict[str, list[int]] = {"reading": [], "prediction": []}
        for entry in spool.read("store", _EVERYTHING):
            waiting[entry.kind].append(number_of(entry))
        to_predict = [number_of(entry) for entry in spool.read(PREDICTOR, _EVERYTHING)]
        done = int(spool.states(PREDICTOR).get(DONE, b"0"))
        spool.append(Batch(readings=[reading(0)]))  # it accepts new readings
    except Exception as error:  # noqa: BLE001 - as above
        report.damaged.append(f"{type(error).__name__}: {error}")
        return
    finally:
        spool.close()
    predicted = max(acknowledged.predictions, done)
    for kind, expected in (("reading", acknowledged.readings), ("prediction", predicted)):
        report.lost += len(set(range(expected)) - acknowledged.stored[kind] - set(waiting[kind]))
        report.duplicated += len(waiting[kind]) - len(set(waiting[kind]))
    last = max(acknowledged.readings, max(waiting["reading"], default=-1) + 1)
    report.lost += len(set(range(done, last)) - set(to_predict)) + max(acknowledged.predictions - done, 0)
    report.duplicated += len([number for number in to_predict if number < done])
    report.duplicated += len(to_predict) - len(set(to_predict))
