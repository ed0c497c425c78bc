"""What the alarms of a failure probability are worth at a threshold: failures caught, lead time, false alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

_DAYS_PER_YEAR = 365.25
_SECONDS_PER_DAY = 86_400.0


def alarm_measures(predictions: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Alarms of held-out batteries, each alarm being consecutive rows above the threshold.

    Args:
        predictions: `battery_id`, `time` (NaT where unknown), `cycle_index`, `actual` (1: a failure follows within the
            horizon) and `predicted`.

    Returns:
        `failures`: runs of rows that a failure follows; `caught`: share of them with an alarm before the failure;
        `lead_cycles`, `lead_days`: medians from the first such alarm to the last row before the failure;
        `false_alarms`: alarms that no failure follows; `false_alarms_per_100_battery_years`.  None where nothing can be
        counted.
    """
    failures, caught, false_alarms, observed_days = 0, 0, 0, 0.0
    lead_cycles: list[float] = []
    lead_days: list[float] = []
    for _, rows in predictions.sort_values(["battery_id", "cycle_index"]).groupby("battery_id", sort=True):
        fails = rows["actual"].to_numpy(dtype=float) > 0.5
        alarm = rows["predicted"].to_numpy(dtype=float) > threshold
        cycle = rows["cycle_index"].to_numpy(dtype=float)
        day = (rows["time"] - rows["time"].iloc[0]).dt.total_seconds().to_numpy() / _SECONDS_PER_DAY
        observed_days += float(np.nan_to_num(day[-1]))
        for first, last in _runs(fails):
            failures += 1
            raised = np.flatnonzero(alarm[first : last + 1])
            if len(raised):
                caught += 1
                lead_cycles.append(float(cycle[last] - cycle[first + raised[0]]))
                lead_days.append(float(day[last] - day[first + raised[0]]))
        false_alarms += sum(not fails[first : last + 1].any() for first, last in _runs(alarm))
    years = observed_days / _DAYS_PER_YEAR
    return {
        "threshold": threshold,
        "failures": failures,
        "caught": caught / failures if failures else None,
        "lead_cycles": float(np.median(lead_cycles)) if caught else None,
        "lead_days": float(np.median(lead_days)) if caught else None,
        "false_alarms": false_alarms,
        "false_alarms_per_100_battery_years": 100.0 * false_alarms / years if years > 0.0 else None,
    }


def _runs(true: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """First and last index of each run of consecutive true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(int)))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
