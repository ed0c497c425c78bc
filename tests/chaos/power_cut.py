"""Power cuts of the spool: opened again on what a disk may hold after any moment, it has what it acknowledged."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.batch import Batch
from telemetry.spool.spool import MIN_BYTES, Spool
from tests.chaos.disk import Changed, Disk, Event, Synced, Told, traced
from tests.chaos.spool_writer import DONE, PREDICTOR, number_of
from tests.telemetry.spool.rows import CONSUMERS, reading

_ROOT = Path(__file__).resolve().parents[2]
_EVERYTHING = 10**6


@dataclass
class Word:
    """What the process had said when the power went: readings before `taken` and predictions before `predicted`."""

    taken: int = 0
    predicted: int = 0
    stored: dict[str, set[int]] = field(default_factory=lambda: {"reading": set(), "prediction": set()})

    def follow(self, told: Told) -> None:
        """Take the next line."""
        what, *rest = told.line.split()
        if what == "taken":
            self.taken = int(rest[0])
        elif what == "predicted":
            self.predicted = int(rest[0])
        else:
            self.stored[rest[0]].add(int(rest[1]))


@dataclass
class Cuts:
    """What was found after power cuts.

    Attributes:
        cuts: how many there were.
        acknowledged: readings and predictions that were acknowledged before them, in all.
        lost: of those, how many are neither in the store nor in the spool.
        doubled: rows that are in the spool twice, or that will be predicted from a second time.
        damaged: spools that could not be opened, with the reason.
    """

    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    damaged: list[str] = field(default_factory=list)

    @property
    def are_harmless(self) -> bool:
        """Nothing was lost or doubled."""
        return not (self.lost or self.doubled or self.damaged)


def traced_spool(batches: int, seed: int) -> list[Event]:
    """What a process does that writes `batches` batches to a spool and takes them out again."""
    with tempfile.TemporaryDirectory(prefix="twin-chaos-") as name:
        folder = Path(name) / "spool"
        folder.mkdir()
        writer = [sys.executable, "-m", "tests.chaos.spool_writer", str(folder), str(batches), str(seed)]
        return traced(writer, folder, Path(name) / "trace", _ROOT)


def cut_power(
    events: Sequence[Event],
    seed: int,
    cuts: int,
    *,
    obeys: bool = True,
    progress: Callable[[Cuts], None] = lambda _: None,
) -> Cuts:
    """Cut the power at `cuts` moments of `events`, each time on another disk, and open the spool again.

    Args:
        obeys: False for a disk that only says that it has synced.
    """
    rng = random.Random(seed)
    moments = sorted(_moments(events, cuts, rng))
    found, disk, word = Cuts(), Disk(obeys=obeys), Word()
    memory = Path("/dev/shm")  # noqa: S108 - nothing secret
    for place, event in enumerate(events):
        while moments and moments[0] == place:
            moments.pop(0)
            with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
                disk.cut(rng, Path(folder))
                _look(Path(folder), word, found)
            progress(found)
        if isinstance(event, Told):
            word.follow(event)
        else:
            disk.follow(event)
    return found


def _moments(events: Sequence[Event], cuts: int, rng: random.Random) -> Iterator[int]:
    """Half of them anywhere; the others where it matters most: at the very start, and when the log is folded in."""
    delicate = [place for place, event in enumerate(events) if _is_delicate(event)]
    for cut in range(cuts):
        if cut % 2 and delicate:
            yield min(rng.choice(delicate) + rng.randrange(2), len(events) - 1)
        else:
            yield rng.randrange(len(events))


def _is_delicate(event: Event) -> bool:
    if isinstance(event, Changed):
        return not event.name.endswith("-wal") or not hasattr(event.change, "data")
    return isinstance(event, Synced) and not event.name.endswith("-wal")


def _look(folder: Path, word: Word, found: Cuts) -> None:
    found.cuts += 1
    found.acknowledged += word.taken + word.predicted
    try:
        spool = Spool(folder / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    except Exception as error:  # noqa: BLE001 - a spool that cannot be opened has lost what it held
        found.damaged.append(f"{type(error).__name__}: {error}")
        return
    try:
        waiting: dict[str, list[int]] = {"reading": [], "prediction": []}
        for entry in spool.read("store", _EVERYTHING):
            waiting[entry.kind].append(number_of(entry))
        to_predict = [number_of(entry) for entry in spool.read(PREDICTOR, _EVERYTHING)]
        done = int(spool.states(PREDICTOR).get(DONE, b"0"))
        spool.append(Batch(readings=[reading(0)]))  # it goes on
    except Exception as error:  # noqa: BLE001 - as above
        found.damaged.append(f"{type(error).__name__}: {error}")
        return
    finally:
        spool.close()
    for kind, told in (("reading", word.taken), ("prediction", max(word.predicted, done))):
        found.lost += len(set(range(told)) - word.stored[kind] - set(waiting[kind]))
        found.doubled += len(waiting[kind]) - len(set(waiting[kind]))
    kept = max(waiting["reading"], default=-1) + 1
    found.lost += len(set(range(done, max(word.taken, kept))) - set(to_predict)) + max(word.predicted - done, 0)
    found.doubled += len([number for number in to_predict if number < done]) + len(to_predict) - len(set(to_predict))
