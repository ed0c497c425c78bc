"""`python -m tests.chaos.spool_writer FOLDER BATCHES SEED`: use a spool and print every acknowledgement.

A line is printed once it holds: `acknowledged 7` when readings 0 to 6 are acknowledged, `predicted 4` when predictions
from readings 0 to 3 are committed together with the offset, `stored reading 3` when the store has reading 3.
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

#: The consumer that predicts, and the name of the state in which it commits the number of predicted readings.
PREDICTOR, DONE = "mqtt", "done"


def number_of(entry: Entry) -> int:
    """The number that is encoded in a row of `tests.telemetry.spool.rows`."""
    return int(float(str(entry.row["current" if entry.kind == "reading" else "value"])))


def main() -> None:
    """Append `BATCHES` batches, predict from some readings and store some entries in between."""
    folder, batches, seed = sys.argv[1:]
    rng = random.Random(int(seed))
    spool = Spool(Path(folder) / "spool.db", CONSUMERS, max_bytes=MIN_BYTES)
    number = 0
    for _ in range(int(batches)):
        count = rng.randint(1, 6)
        spool.append(Batch(readings=[reading(number + i) for i in range(count)]))
        number += count
        _print(f"acknowledged {number}")
        if rng.random() < 0.5:
            _predict(spool, rng.randint(1, 12))
        if rng.random() < 0.2:
            _store(spool, spool.read("store", rng.randint(1, 60)))
    spool.close()


def _predict(spool: Spool, limit: int) -> None:
    if entries := spool.read(PREDICTOR, limit):
        numbers = [number_of(entry) for entry in entries]
        predictions = Batch(predictions=[prediction(number) for number in numbers])
        done = numbers[-1] + 1
        spool.advance(PREDICTOR, entries[-1].offset, append=predictions, states={DONE: b"%d" % done})
        _print(f"predicted {done}")


def _store(spool: Spool, entries: Sequence[Entry]) -> None:
    if entries:
        _print("\n".join(f"stored {entry.kind} {number_of(entry)}" for entry in entries))
        spool.advance("store", entries[-1].offset)


def _print(lines: str) -> None:
    os.write(1, f"{lines}\n".encode())


if __name__ == "__main__":
    main()
