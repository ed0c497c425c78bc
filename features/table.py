"""Build one table of features and labels for each target from validated telemetry."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import labels
from features.battery_row import set_battery_from_row
from features.labels import LabelParams
from features.state import MAX_GAP_S, FloatArray, new_states
from features.state_update import (
    CYCLE_FEATURES,
    READING_FEATURES,
    BoolArray,
    cycles_matrix,
    readings_matrix,
    update_from_cycles,
    update_from_readings,
)
from features.targets import FORECASTS, TARGETS, Target
from telemetry.batch import rows_of
from telemetry.contract import SIGNALS

#: Columns of every table besides features and labels.
KEYS: tuple[str, ...] = ("battery_id", "time", "cycle_index", "life_quarter")

_ACTUAL = "actual_"  # prefix of the signals that are forecast


@dataclass(frozen=True)
class FeatureTables:
    """Output of the features stage.

    Attributes:
        tables: for each available target a frame with KEYS, its features and its label, labelled rows only.
        censored: for each target that matures at the end of life, the rows of batteries that have not reached
            it: KEYS, its features and `labels.OBSERVED`.
        not_available: for each other target the reason why this source cannot provide it.
        cycles: every cycle that updated a state, from the source or closed from readings, in contract columns.
        notes: remarks for the report, one sentence each.
    """

    tables: dict[str, pd.DataFrame]
    not_available: dict[str, str]
    cycles: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    censored: dict[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class _History:
    """Features after every row of a source's history: by cycle and by reading."""

    cycles: pd.DataFrame
    readings: pd.DataFrame
    notes: list[str]


def build(readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame, params: LabelParams) -> FeatureTables:
    """Compute features and labels of a source's history; frames in contract columns, see `telemetry.contract`."""
    history = _compute_features(readings, cycles, batteries)
    by_cycle = _label_cycles(history, cycles, batteries, params)
    by_reading = _label_readings(history.readings, params)
    tables: dict[str, pd.DataFrame] = {}
    censored: dict[str, pd.DataFrame] = {}
    not_available: dict[str, str] = {}
    for target in TARGETS.values():
        frame = by_reading if target.cadence == "reading" else by_cycle
        labelled = frame[frame[target.label].notna()]
        if target.matures == "end_of_life":
            columns = [*KEYS, *target.feature_names, labels.OBSERVED]
            censored[target.name] = frame.loc[frame[labels.OBSERVED].notna(), columns].reset_index(drop=True)
        reason = _reason_unavailable(target, frame, labelled, params)
        if reason is None:
            columns = [*KEYS, *target.feature_names, target.label]
            tables[target.name] = labelled[columns].reset_index(drop=True)
        else:
            not_available[target.name] = reason
    summaries = history.cycles.drop(columns=list(CYCLE_FEATURES))
    return FeatureTables(tables, not_available, summaries, history.notes, censored)


def _compute_features(readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame) -> _History:
    """Update states from each battery's cycles by index, and from its readings by time after its earlier cycles."""
    ids = np.unique(np.concatenate([frame["battery_id"].astype(str) for frame in (readings, cycles, batteries)]))
    states = _states(ids, batteries)
    notes: list[str] = []
    has_signal = cycles[[c for c in SIGNALS if c in cycles]].notna().any(axis=1)
    published = cycles[has_signal].sort_values(["battery_id", "cycle_index", "end_time"], kind="stable")
    published = published.reset_index(drop=True)
    readings = readings.sort_values(["battery_id", "time"], kind="stable").reset_index(drop=True)
    reading_states = states.copy()
    earlier = published[_before_readings(published, readings)]
    update_from_cycles(reading_states, np.searchsorted(ids, earlier["battery_id"].astype(str)), cycles_matrix(earlier))
    by_cycle = update_from_cycles(
        states, np.searchsorted(ids, published["battery_id"].astype(str)), cycles_matrix(published)
    )
    by_reading = update_from_readings(
        reading_states, np.searchsorted(ids, readings["battery_id"].astype(str)), readings_matrix(readings)
    )
    late = int((~by_cycle.applied).sum() + (~by_reading.applied).sum())
    if late:
        notes.append(f"{late} rows were not newer than their battery's state and were ignored")

    closed = by_reading.closed_table()
    # Sessions in the cycles table are complete; those closed from readings may lack their beginning.
    summarised = published.loc[_are_sessions(published), "battery_id"].astype(str).unique()
    new = ~np.isin(ids[closed["battery_row"]], summarised)
    if not new.all():
        notes.append(f"{int((~new).sum())} sessions closed from readings were ignored: the cycles table has them")
    closed = closed[new].reset_index(drop=True)
    ended_by = readings.iloc[closed["reading"]].reset_index(drop=True)
    # A session closed by a gap is labelled by its last reading before the gap.
    inside = readings.iloc[np.maximum(closed["reading"].to_numpy() - 1, 0)].reset_index(drop=True)
    sessions = closed.drop(columns=["battery_row", "reading", "start_s", "end_s"]).assign(
        battery_id=ended_by["battery_id"],
        start_time=_times(closed["start_s"].to_numpy()),
        end_time=_times(closed["end_s"].to_numpy()),
        soh=inside.get("soh", np.nan),
    )
    closed_cycles = pd.concat(
        [
            _with_features(published[by_cycle.applied], by_cycle.features[by_cycle.applied]),
            _with_features(sessions, by_reading.closed_features[new]),
        ],
        ignore_index=True,
    ).sort_values(["battery_id", "cycle_index"], kind="stable", ignore_index=True)
    features = pd.concat(
        [
            readings[["battery_id", "time", "warning_level"]],
            readings.reindex(columns=sorted({str(TARGETS[name].signal) for name in FORECASTS})).add_prefix(_ACTUAL),
            pd.DataFrame(by_reading.features, columns=list(READING_FEATURES)),
        ],
        axis=1,
    ).assign(cycle_index=by_reading.cycles)
    without_telemetry = sorted(set(ids) - set(closed_cycles["battery_id"]) - set(readings["battery_id"]))
    if without_telemetry:
        notes.append(
            f"no telemetry to learn from for {len(without_telemetry)} batteries: {', '.join(without_telemetry)}"
        )
    return _History(closed_cycles, features[by_reading.applied].reset_index(drop=True), notes)


def _states(ids: NDArray[np.str_], batteries: pd.DataFrame) -> FloatArray:
    """A new state for each of `ids`, with the properties of its battery."""
    states = new_states(len(ids))
    # Missing values in text columns are NaN; `set_battery` expects None.
    for battery in rows_of(batteries.astype(object).where(batteries.notna(), None)):
        set_battery_from_row(states[np.searchsorted(ids, str(battery["battery_id"]))], battery)
    return states


def _are_sessions(cycles: pd.DataFrame) -> BoolArray:
    """Which rows are sessions summarised from readings, as opposed to laboratory cycles."""
    return cycles["kind"].isin(["charge", "discharge"]).to_numpy(dtype=bool)


def _before_readings(cycles: pd.DataFrame, readings: pd.DataFrame) -> BoolArray:
    """Which cycles update the state before the readings of their battery: all but the sessions that these repeat."""
    begin = readings.groupby("battery_id")["time"].min().reindex(cycles["battery_id"]).set_axis(cycles.index)
    return ~((cycles["end_time"] > begin).to_numpy(dtype=bool) & _are_sessions(cycles))


def _times(seconds: FloatArray) -> pd.Series:
    return pd.Series(pd.to_datetime(np.round(seconds * 1e6).astype("int64"), unit="us", utc=True))


def _with_features(rows: pd.DataFrame, features: FloatArray) -> pd.DataFrame:
    table = pd.DataFrame(features, columns=list(CYCLE_FEATURES))
    return pd.concat([rows.reset_index(drop=True), table], axis=1)


def _measured_soh(history: _History, cycles: pd.DataFrame, batteries: pd.DataFrame) -> pd.DataFrame:
    """Every known state of health: `battery_id`, `cycle_index`, `soh_fraction`, ascending."""
    nominal = batteries.set_index("battery_id")["nominal_capacity_ah"]
    measured = cycles["capacity_ah"] / cycles["battery_id"].map(nominal).astype(float)
    published = cycles[["battery_id", "cycle_index"]].assign(soh_fraction=measured.fillna(cycles["soh"] / 100.0))
    sessions = history.cycles[["battery_id", "cycle_index"]].assign(soh_fraction=history.cycles["soh"] / 100.0)
    known = pd.concat([published, sessions], ignore_index=True).dropna()
    known = known.sort_values(["battery_id", "cycle_index"], kind="stable")
    return known.drop_duplicates(["battery_id", "cycle_index"], keep="first")


def _label_cycles(
    history: _History, cycles: pd.DataFrame, batteries: pd.DataFrame, params: LabelParams
) -> pd.DataFrame:
    """The cycles of `history` with the labels of the targets by cycle and `life_quarter`."""
    rows = history.cycles.assign(time=history.cycles["end_time"])
    measured = _measured_soh(history, cycles, batteries)
    warnings = _warnings(history.readings, cycles)
    observed = pd.concat(
        [frame[["battery_id", "cycle_index"]] for frame in (rows, measured, history.readings)], ignore_index=True
    )
    last_observed = observed.groupby("battery_id")["cycle_index"].max()
    targets = [target for target in TARGETS.values() if target.cadence == "cycle"]
    health_of, warnings_of = (dict(list(frame.groupby("battery_id"))) for frame in (measured, warnings))
    parts: list[pd.DataFrame] = []
    for battery_id, part in rows.groupby("battery_id", sort=True):
        health, alarms = health_of.get(battery_id, measured[:0]), warnings_of.get(battery_id, warnings[:0])
        index = part["cycle_index"].to_numpy(dtype=float)
        record = labels.BatteryRecord(
            health_cycles=health["cycle_index"].to_numpy(dtype=float),
            health=health["soh_fraction"].to_numpy(dtype=float),
            alarm_cycles=alarms["cycle_index"].to_numpy(dtype=float),
            alarm_levels=alarms["warning_level"].to_numpy(dtype=float),
            last_cycle=float(last_observed[battery_id]),
            watched=len(health) > 0 or len(alarms) > 0,
            cycle_index=index,
            cycles={name: part[name].to_numpy(dtype=float) for target in targets for name in target.label_columns},
        )
        eol = record.end_of_life(params)
        part = part.assign(
            **{target.label: target.label_of(index, record, params) for target in targets},
            **{labels.OBSERVED: labels.observed_cycles(index, record, params)},
            life_quarter=labels.life_quarter(index, record.last_cycle if np.isnan(eol) else eol),
        )
        parts.append(part)
    columns = [*(target.label for target in targets), labels.OBSERVED, "life_quarter"]
    return pd.concat(parts, ignore_index=True) if parts else rows.reindex(columns=[*rows.columns, *columns])


def _warnings(readings: pd.DataFrame, cycles: pd.DataFrame) -> pd.DataFrame:
    """Every reported warning level: `battery_id`, `cycle_index`, `warning_level`, which may be 0."""
    columns = ["battery_id", "cycle_index", "warning_level"]
    frames = [frame.reindex(columns=columns).dropna(subset="warning_level") for frame in (readings, cycles)]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _label_readings(readings: pd.DataFrame, params: LabelParams) -> pd.DataFrame:
    """One reading of each battery every `temperature_every_s`, with the labels of the forecasts and `life_quarter`."""
    forecasts = [TARGETS[name] for name in FORECASTS]
    parts: list[pd.DataFrame] = []
    for _, part in readings.groupby("battery_id", sort=True):
        time_s = part["time"].astype("int64").to_numpy() / 1e6
        ahead = {
            target.label: labels.value_ahead(
                time_s,
                part[f"{_ACTUAL}{target.signal}"].to_numpy(dtype=float),
                horizon_s=target.horizon_in(vars(params)),
                tolerance_s=params.temperature_tolerance_s,
                max_gap_s=MAX_GAP_S,
            )
            for target in forecasts
        }
        tick = np.floor(time_s / params.temperature_every_s)
        first_of_tick = np.diff(tick, prepend=-np.inf) > 0
        share = (time_s - time_s[0]) / max(time_s[-1] - time_s[0], 1.0)
        rows = part.assign(**ahead, life_quarter=np.minimum(np.floor(4.0 * share) + 1.0, 4.0))
        parts.append(rows[first_of_tick])
    columns = [*readings.columns, *(target.label for target in forecasts), "life_quarter"]
    return pd.concat(parts, ignore_index=True) if parts else readings.reindex(columns=columns)


def _reason_unavailable(target: Target, frame: pd.DataFrame, labelled: pd.DataFrame, params: LabelParams) -> str | None:
    """Why `target` cannot be trained on this source, or None."""
    if frame.empty:
        what = "readings" if target.cadence == "reading" else "cycles with any statistic to learn from"
        return f"the source has no {what}"
    if len(labelled) < params.min_rows:
        return f"{len(labelled)} labelled rows, at least {params.min_rows} are needed: {target.shown.no_label}"
    if target.matures == "end_of_life" and labelled["battery_id"].nunique() == 1:
        return (
            f"only {labelled['battery_id'].iloc[0]} was observed until its end of life; with one battery the remaining "
            "life is its age counted backwards, so at least two are needed"
        )
    if target.kind == "classification":
        counts = labelled[target.label].value_counts()
        rarest = min(int(counts.get(value, 0)) for value in (0.0, 1.0))
        if rarest < params.min_events:
            return (
                f"of {len(labelled)} labelled rows {int(counts.get(1.0, 0))} are followed by a failure within the "
                f"horizon and {int(counts.get(0.0, 0))} are not; at least {params.min_events} of each are needed"
            )
    return None
