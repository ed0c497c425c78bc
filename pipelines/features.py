"""Stage `features`: build one table of features and labels for each target and check it for data leakage."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import numpy as np
import pandas as pd

from features import leakage_check
from features.labels import OBSERVED, LabelParams, definitions
from features.leakage_check import LeakageError
from features.state import STATE_VERSION
from features.table import KEYS, FeatureTables, build
from features.targets import TARGETS
from telemetry.command import exit_code
from telemetry.parameters import load_params
from telemetry.sources import source
from training.params import DEFINITIONS_FILE, FEATURES, VALIDATED, censored_path, start_logging, write_json

log = logging.getLogger(__name__)

#: Batteries whose features the leakage check computes again without the second half of their history.
_CHECKED_BATTERIES = 8


def features(
    readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame, params: LabelParams
) -> FeatureTables:
    """The tables of all targets, after they have passed the data leakage check.

    A target that a formula of features determines in these data is left out, with the reason.

    Raises:
        LeakageError: a label is among the features, or one of them depends on later data, whatever the data.
    """
    built = build(readings, cycles, batteries, params)
    truncated = build(*_truncated(readings, cycles, batteries), _without_minimum_rows(params))
    for name, table in built.tables.items():
        target = TARGETS[name]
        leakage_check.reject_labels(target, target.feature_names)
        if name in truncated.tables:
            leakage_check.reject_future_values(table, truncated.tables[name], target.feature_names, _row_key(table))
    tables, not_available = dict(built.tables), dict(built.not_available)
    for name, table in built.tables.items():
        try:
            leakage_check.reject_target_formulas(table, TARGETS[name], TARGETS[name].feature_names)
        except LeakageError as error:
            del tables[name]
            not_available[name] = error.sentence
    return replace(built, tables=tables, not_available=not_available)


def _without_minimum_rows(params: LabelParams) -> LabelParams:
    """The same definitions, without the minimum number of rows for training."""
    return params.model_copy(update={"min_rows": 1, "min_events": 0})


def _row_key(table: pd.DataFrame) -> tuple[str, ...]:
    return ("battery_id", "time") if table["time"].notna().any() else ("battery_id", "cycle_index")


def _truncated(
    readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Truncated histories of some batteries: the first half of their readings, and the cycles ended by then."""
    ids = np.unique(np.concatenate([frame["battery_id"].astype(str) for frame in (readings, cycles)]))
    sample = ids[:: max(1, len(ids) // _CHECKED_BATTERIES)]
    readings, cycles = (frame[frame["battery_id"].isin(sample)] for frame in (readings, cycles))
    cutoff = _cutoff_times(readings, cycles)
    reading_cutoff, cycle_cutoff = (
        cutoff.reindex(frame["battery_id"]).set_axis(frame.index) for frame in (readings, cycles)
    )
    # Cycles that cannot be compared with the cut-off by time are truncated to their first half.
    untimed = cycles["end_time"].isna() | cycle_cutoff.isna()
    half = _first_half(cycles, "cycle_index").index
    selected = (cycles["end_time"] <= cycle_cutoff) | (untimed & cycles.index.isin(half))
    return (
        readings[readings["time"] <= reading_cutoff],
        cycles[selected],
        batteries[batteries["battery_id"].isin(sample)],
    )


def _cutoff_times(readings: pd.DataFrame, cycles: pd.DataFrame) -> pd.Series:
    """Cut-off time of each battery with readings, such that some of its history lies after it."""
    cutoff = _first_half(readings, "time").groupby("battery_id")["time"].max()
    ends, times = cycles.groupby("battery_id")["end_time"], readings.groupby("battery_id")["time"]
    first, last, newest = (values.reindex(cutoff.index) for values in (ends.min(), ends.max(), times.max()))
    # Stored readings may begin before every stored session; without a session before the cut-off there would be no row
    # to compare.
    is_later = (first > cutoff) & ((first < last) | (first < newest))
    return cutoff.mask(is_later, first)


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
    defined = definitions(params, source(params["source"]["name"]).target_defaults)
    built = features(readings, cycles, batteries, LabelParams.of({"targets": defined}))
    FEATURES.mkdir(parents=True, exist_ok=True)
    for target in TARGETS.values():
        empty = pd.DataFrame(columns=[*KEYS, *target.feature_names, target.label])
        built.tables.get(target.name, empty).to_parquet(FEATURES / f"{target.name}.parquet", index=False)
        # Empty for most targets: a dependency of a stage has to exist.
        none = pd.DataFrame(columns=[*KEYS, *target.feature_names, OBSERVED])
        built.censored.get(target.name, none).to_parquet(censored_path(target.name), index=False)
    write_json(FEATURES / DEFINITIONS_FILE, defined)
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
