"""Applies the events of batteries to their rows: replacements, resets, capacity tests and failures, for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from telemetry.batch import rows_of
from telemetry.contract import CYCLE_FIELDS, FAILED_WARNING_LEVEL
from telemetry.sources.base import PROVENANCE, complete

#: Longest id of a battery.
_ID_CHARACTERS = 50


@dataclass(frozen=True)
class WithEvents:
    """Rows of a source after its events, in contract columns; notes on events that could not be applied."""

    readings: pd.DataFrame
    cycles: pd.DataFrame
    batteries: pd.DataFrame
    notes: list[str]


def apply_events(
    readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame, events: pd.DataFrame
) -> WithEvents:
    """Apply `events` (columns of `BATTERY_EVENT_FIELDS`).

    A pack that was replaced becomes a battery of its own, EV-7.1 for the first one of EV-7; the newest pack keeps the
    id, as in serving.  After a reset the age goes on by an offset to the pack's count.  A capacity test and a failure
    become cycles that have only a label.
    """
    if events.empty:
        return WithEvents(readings, cycles, batteries, [])
    events = events.sort_values(["battery_id", "time"], kind="stable")
    replaced = {
        str(battery_id): np.sort(group["time"].to_numpy())
        for battery_id, group in events[events["event"] == "replaced"].groupby("battery_id")
    }
    readings = readings.assign(battery_id=_packs(readings["battery_id"], readings["time"], replaced))
    cycles = cycles.assign(battery_id=_packs(cycles["battery_id"], cycles["end_time"], replaced))
    events = events.assign(battery_id=_packs(events["battery_id"], events["time"], replaced))
    readings = _with_offsets(readings, events[events["event"] == "bms_reset"])
    labels, notes = _labels(readings, cycles, events)
    copies = [
        batteries[batteries["battery_id"] == battery_id].assign(battery_id=_pack_id(battery_id, pack))
        for battery_id, times in replaced.items()
        for pack in range(1, len(times) + 1)
    ]
    return WithEvents(
        readings,
        pd.concat([cycles, labels], ignore_index=True) if len(labels) else cycles,
        pd.concat([batteries, *copies], ignore_index=True),
        notes,
    )


def _pack_id(battery_id: str, pack: int) -> str:
    suffix = f".{pack}"
    return battery_id[: _ID_CHARACTERS - len(suffix)] + suffix


def _packs(battery_ids: pd.Series, times: pd.Series, replaced: dict[str, np.ndarray]) -> pd.Series:
    """The id of the pack of each row; a row without a time belongs to the newest pack."""
    result = battery_ids.astype("str").copy()
    for battery_id, until in replaced.items():
        rows = (battery_ids == battery_id) & times.notna()
        pack = np.searchsorted(until, times[rows].to_numpy(), side="right")
        names = [battery_id if number == len(until) else _pack_id(battery_id, number + 1) for number in pack]
        result[rows] = pd.Series(names, index=result.index[rows], dtype="str")
    return result


def _with_offsets(readings: pd.DataFrame, resets: pd.DataFrame) -> pd.DataFrame:
    """`readings` whose `charge_cycles` go on after each reset of their battery."""
    counts = readings["charge_cycles"].copy()
    for reset in rows_of(resets):
        own = (readings["battery_id"] == reset["battery_id"]) & counts.notna()
        is_after = readings["time"] >= cast(pd.Timestamp, reset["time"])
        before, after = own & ~is_after, own & is_after
        if before.any() and after.any():
            first = readings.loc[after].sort_values("time")["charge_cycles"].iloc[0]
            counts[after] += counts[before].max() - first
    return readings.assign(charge_cycles=counts)


def _labels(readings: pd.DataFrame, cycles: pd.DataFrame, events: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A cycle for each capacity test and failure, at the age that the battery had then."""
    labels: list[dict[str, object]] = []
    notes = []
    for event in rows_of(events[events["event"].isin(["capacity_test", "failed"])]):
        battery_id, time = str(event["battery_id"]), cast(pd.Timestamp, event["time"])
        age = _age_at(readings, cycles, battery_id, time)
        label = {"battery_id": battery_id, "end_time": time, "kind": "cycle", "cycle_index": age}
        if age is None:
            notes.append(
                f"the event {event['event']} of {battery_id} at {time.isoformat()} has no label: the age of the "
                "battery then is not known"
            )
        elif event["event"] == "capacity_test":
            labels.append({**label, "capacity_ah": event["value"], "capacity_method": "measured"})
        else:
            labels.append({**label, "warning_level": FAILED_WARNING_LEVEL})
    made = complete(pd.DataFrame(labels), CYCLE_FIELDS)
    made[PROVENANCE[0]], made[PROVENANCE[1]] = "battery_events", range(1, len(made) + 1)
    return made, notes


def _age_at(readings: pd.DataFrame, cycles: pd.DataFrame, battery_id: str, time: pd.Timestamp) -> float | None:
    own = cycles[(cycles["battery_id"] == battery_id) & (cycles["end_time"] <= time)]["cycle_index"]
    counted = readings[(readings["battery_id"] == battery_id) & (readings["time"] <= time)]["charge_cycles"]
    ages = pd.concat([own, counted]).dropna()
    return float(ages.max()) if len(ages) else None
