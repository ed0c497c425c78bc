"""`python -m tests.chaos.spool_writer FOLDER BATCHES SEED`: a spool in use, told line by line on the standard output.

A line is written when what it says is true: `taken 7` when the readings before 7 are acknowledged, `predicted 4` when
predictions from those before 4 are kept with the place behind them, `stored reading 3` when the store has reading 3.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from telemetry.batch import Batch
from telemetry.spool.entries import Entry
from telemetry.spool.spool import MIN_BYTES, Spool
from tests.telemetry.spool.rows import CONSUMERS, prediction, reading

#: Who predicts, and under which name it keeps how far it has come.
PREDICTOR, DONE = "mqtt", "done"


def number_of(entry: Entry) -> int:
    """The number that a row of `tests.telemetry.spool.rows` carries."""
    return int(float(str(entry.row["current" if entry.kind == "reading" else "value"])))


def main() -> None:
    """Write `BATCHES` batches."""
    folder, batches, seed = sys.argv[1:]
    rng = random.Random(int(seed))
    spool = Spool(Path(folder) / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    number = 0
    for _ in range(int(batches)):
        count = rng.randint(1, 6)
        spool.append(Batch(readings=[reading(number + place) for place in range(count)]))
        number += count
        _tell(f"taken {number}")
        if rng.random() < 0.5:
            _predict(spool, rng.randint(1, 12))
        if rng.random() < 0.2:
            _store(spool, spool.read("store", rng.randint(1, 60)))
    spool.close()


def _predict(spool: Spool, limit: int) -> None:
    if entries := spool.read(PREDICTOR, limit):
        numbers = [number_of(entry) for entry in entries]
        made = Batch(predictions=[prediction(number) for number in numbers])
        done = numbers[-1] + 1
        spool.advance(PREDICTOR, entries[-1].position, append=made, states={DONE: b"%d" % done})
        _tell(f"predicted {done}")


def _store(spool: Spool, entries: Sequence[Entry]) -> None:
    if entries:
        _tell("\n".join(f"stored {entry.kind} {number_of(entry)}" for entry in entries))
        spool.advance("store", entries[-1].position)


def _tell(lines: str) -> None:
    os.write(1, f"{lines}\n".encode())


if __name__ == "__main__":
    main()
