"""Batch of contract rows (readings, predictions, batteries, cycles) as producers hand it to stores and sinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    import pandas as pd

#: One row: column name -> value.  None, NaN and an absent column all mean 'missing'.
Row = Mapping[str, object]
#: The table of a batch that a row belongs to.
RowKind = Literal["battery", "reading", "late", "prediction", "cycle"]


@dataclass(frozen=True)
class Batch:
    """Rows that are written together; each table may be empty.

    `readings`, `batteries` and `cycles` have the columns of `telemetry.contract`; `predictions` those of the
    table `battery_predictions`: battery_id, time, target, value, lower, upper, due,
    cycle_index, model_name, model_version, role, predicted_at.  `late` are late readings, which arrived after the state
    of their battery was updated from a newer one: stored as readings, and flagged unless a prediction from them exists.
    """

    readings: Sequence[Row] = ()
    predictions: Sequence[Row] = ()
    batteries: Sequence[Row] = ()
    cycles: Sequence[Row] = ()
    late: Sequence[Row] = ()

    def __len__(self) -> int:
        return len(self.readings) + len(self.predictions) + len(self.batteries) + len(self.cycles) + len(self.late)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table, in order."""
    return cast(list[Row], frame.to_dict("records"))


def merge(batches: Iterable[Batch]) -> Batch:
    """All rows of `batches` in one, in order."""
    parts = list(batches)
    return Batch(
        readings=[row for part in parts for row in part.readings],
        predictions=[row for part in parts for row in part.predictions],
        batteries=[row for part in parts for row in part.batteries],
        cycles=[row for part in parts for row in part.cycles],
        late=[row for part in parts for row in part.late],
    )
