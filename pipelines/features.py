"""Stage `features`: fold the validated history, label it, refuse leaks, write one table for each target."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pandas as pd

from features import leakage_check
from features.state import STATE_VERSION
from features.table import KEYS, FeatureTables, LabelParams, build
from features.targets import TARGETS
from telemetry.command import exit_code
from training.params import FEATURES, VALIDATED, load_params, parse_section, start_logging, write_json

log = logging.getLogger(__name__)

#: Batteries whose history the guard folds again without its second half.
_GUARDED_BATTERIES = 8


def features(
    readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame, params: LabelParams
) -> FeatureTables:
    """The tables of all targets, after the leak guard has passed them."""
    built = build(readings, cycles, batteries, params)
    beginning = build(*_beginning(readings, cycles, batteries), _any_number(params))
    for name, table in built.tables.items():
        target = TARGETS[name]
        leakage_check.reject_labels(target, target.feature_names)
        if name in beginning.tables:
            leakage_check.reject_future_values(table, beginning.tables[name], target.feature_names, _row_key(table))
        leakage_check.reject_target_formulas(table, target, target.feature_names)
    return built


def _any_number(params: LabelParams) -> LabelParams:
    """The same definitions, without asking for enough rows to learn from."""
    return LabelParams(**{**vars(params), "min_rows": 1, "min_events": 0})


def _row_key(table: pd.DataFrame) -> tuple[str, ...]:
    return ("battery_id", "time") if table["time"].notna().any() else ("battery_id", "cycle_index")


def _beginning(
    readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The beginning of some batteries' histories: half of their readings, and the cycles that had ended by then."""
    ids = np.unique(np.concatenate([frame["battery_id"].astype(str) for frame in (readings, cycles)]))
    some = ids[:: max(1, len(ids) // _GUARDED_BATTERIES)]
    readings, cycles = (frame[frame["battery_id"].isin(some)] for frame in (readings, cycles))
    until = _beginning_ends(readings, cycles)
    read_until, ended_until = (until.reindex(frame["battery_id"]).set_axis(frame.index) for frame in (readings, cycles))
    # Where a cycle and the readings cannot be told apart in time, half of the cycles it is.
    untimed = cycles["end_time"].isna() | ended_until.isna()
    half = _first_half(cycles, "cycle_index").index
    kept = (cycles["end_time"] <= ended_until) | (untimed & cycles.index.isin(half))
    return readings[readings["time"] <= read_until], cycles[kept], batteries[batteries["battery_id"].isin(some)]


def _beginning_ends(readings: pd.DataFrame, cycles: pd.DataFrame) -> pd.Series:
    """When the beginning of each battery with readings ends; something comes after it."""
    until = _first_half(readings, "time").groupby("battery_id")["time"].max()
    ends, times = cycles.groupby("battery_id")["end_time"], readings.groupby("battery_id")["time"]
    first, last, read = (found.reindex(until.index) for found in (ends.min(), ends.max(), times.max()))
    # Readings may be older than every session that is kept of them; a beginning without one would compare nothing.
    is_later = (first > until) & ((first < last) | (first < read))
    return until.mask(is_later, first)


def _first_half(frame: pd.DataFrame, order: str) -> pd.DataFrame:
    rows = frame.sort_values(["battery_id", order], kind="stable")
    groups = rows.groupby("battery_id")
    return rows[groups.cumcount() < groups["battery_id"].transform("size") // 2]


def main() -> None:
    start_logging()
    params = load_params()
    readings, cycles, batteries = (
        pd.read_parquet(VALIDATED / f"{name}.parquet") for name in ("readings", "cycles", "batteries")
    )
    built = features(readings, cycles, batteries, parse_section(LabelParams, params["targets"], "targets"))
    FEATURES.mkdir(parents=True, exist_ok=True)
    for target in TARGETS.values():
        empty = pd.DataFrame(columns=[*KEYS, *target.feature_names, target.label])
        built.tables.get(target.name, empty).to_parquet(FEATURES / f"{target.name}.parquet", index=False)
    built.cycles.to_parquet(FEATURES / "cycles.parquet", index=False)
    write_json(
        FEATURES / "report.json",
        {
            "state_version": STATE_VERSION,
            "rows": {name: len(table) for name, table in built.tables.items()},
            "batteries": {name: int(table["battery_id"].nunique()) for name, table in built.tables.items()},
            "not_available": built.not_available,
            "notes": built.notes,
        },
    )
    for name, table in built.tables.items():
        log.info("%s: %d labelled rows of %d batteries", name, len(table), table["battery_id"].nunique())
    for name, reason in built.not_available.items():
        log.info("%s is not available: %s", name, reason)


if __name__ == "__main__":
    sys.exit(exit_code(main))
