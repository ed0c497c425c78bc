"""From validated telemetry to one table of features and labels for each target."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import labels
from features.state import MAX_GAP_S, FloatArray, new_states, set_battery
from features.state_update import (
    CYCLE_FEATURES,
    READING_FEATURES,
    BoolArray,
    cycles_matrix,
    readings_matrix,
    update_from_cycles,
    update_from_readings,
)
from features.targets import TARGETS, Target
from telemetry.contract import SIGNALS

#: Columns of every table besides features and labels.
KEYS: tuple[str, ...] = ("battery_id", "time", "cycle_index", "life_quarter")


@dataclass(frozen=True)
class LabelParams:
    """What counts as end of life, failure and 'ahead'; `targets` in params.yaml."""

    eol_fraction: float = 0.8
    failure_horizon_cycles: float = 100.0
    temperature_horizon_s: float = 300.0
    temperature_tolerance_s: float = 30.0
    temperature_every_s: float = 300.0
    fault_warning_level: float = 3.0
    min_rows: int = 50
    min_events: int = 10


@dataclass(frozen=True)
class FeatureTables:
    """What the features stage hands on.

    Attributes:
        tables: for each available target a frame with KEYS, its features and its label, labelled rows only.
        not_available: for each other target the reason why this source cannot give it.
        cycles: every cycle that was folded, published or closed by the fold, in contract columns.
        notes: what a reader of the report should know.
    """

    tables: dict[str, pd.DataFrame]
    not_available: dict[str, str]
    cycles: pd.DataFrame
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Folded:
    """The fold over everything a source has."""

    health: pd.DataFrame
    readings: pd.DataFrame
    notes: list[str]


def build(readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame, params: LabelParams) -> FeatureTables:
    """Fold a source's history and label it; frames in contract columns, see `telemetry.contract`."""
    folded = _fold(readings, cycles, batteries)
    health = _label_health(folded, cycles, batteries, params)
    ahead = _label_temperature(folded.readings, params)
    tables: dict[str, pd.DataFrame] = {}
    not_available: dict[str, str] = {}
    for target in TARGETS.values():
        frame = ahead if target.cadence == "reading" else health
        labelled = frame[frame[target.label].notna()]
        reason = _why_not(target, frame, labelled, params)
        if reason is None:
            columns = [*KEYS, *target.feature_names, target.label]
            tables[target.name] = labelled[columns].reset_index(drop=True)
        else:
            not_available[target.name] = reason
    summaries = folded.health.drop(columns=list(CYCLE_FEATURES))
    return FeatureTables(tables, not_available, summaries, folded.notes)


def _fold(readings: pd.DataFrame, cycles: pd.DataFrame, batteries: pd.DataFrame) -> _Folded:
    """Each battery's cycles in order of age, and its readings in order of time on top of the cycles before them."""
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
        notes.append(f"{late} rows were not newer than what their battery had already said and were not folded")

    closed = by_reading.closed_table()
    # Whose sessions are published has them whole, wherever its readings happen to begin.
    summarised = published.loc[_are_sessions(published), "battery_id"].astype(str).unique()
    new = ~np.isin(ids[closed["battery_row"]], summarised)
    if not new.all():
        notes.append(f"{int((~new).sum())} sessions in readings were left aside: their batteries' cycles hold them")
    closed = closed[new].reset_index(drop=True)
    ended_by = readings.iloc[closed["reading"]].reset_index(drop=True)
    # A session that a gap ended knows nothing of the reading after the gap: its label is the last one inside it.
    inside = readings.iloc[np.maximum(closed["reading"].to_numpy() - 1, 0)].reset_index(drop=True)
    sessions = closed.drop(columns=["battery_row", "reading", "start_s", "end_s"]).assign(
        battery_id=ended_by["battery_id"],
        start_time=_times(closed["start_s"].to_numpy()),
        end_time=_times(closed["end_s"].to_numpy()),
        soh=inside.get("soh", np.nan),
    )
    health = pd.concat(
        [
            _with_features(published[by_cycle.applied], by_cycle.features[by_cycle.applied]),
            _with_features(sessions, by_reading.closed_features[new]),
        ],
        ignore_index=True,
    ).sort_values(["battery_id", "cycle_index"], kind="stable", ignore_index=True)
    seen = pd.concat(
        [
            readings[["battery_id", "time", "temperature", "warning_level"]],
            pd.DataFrame(by_reading.features, columns=list(READING_FEATURES)),
        ],
        axis=1,
    ).assign(cycle_index=by_reading.cycles)
    silent = sorted(set(ids) - set(health["battery_id"]) - set(readings["battery_id"]))
    if silent:
        notes.append(f"no telemetry to learn from for {len(silent)} batteries: {', '.join(silent)}")
    return _Folded(health, seen[by_reading.applied].reset_index(drop=True), notes)


def _states(ids: NDArray[np.str_], batteries: pd.DataFrame) -> FloatArray:
    """A state for each of `ids` that knows what its battery is made of."""
    states = new_states(len(ids))
    # In a column of text a missing value is NaN.
    for battery in batteries.astype(object).where(batteries.notna(), None).to_dict("records"):
        set_battery(
            states[np.searchsorted(ids, battery["battery_id"])],
            nominal_capacity_ah=battery.get("nominal_capacity_ah"),
            cells_in_series=battery.get("cells_in_series"),
            chemistry=battery.get("chemistry"),
        )
    return states


def _are_sessions(cycles: pd.DataFrame) -> BoolArray:
    """Which rows were summarised from readings; a laboratory's cycle was published by itself."""
    return cycles["kind"].isin(["charge", "discharge"]).to_numpy(dtype=bool)


def _before_readings(cycles: pd.DataFrame, readings: pd.DataFrame) -> BoolArray:
    """Which cycles the readings of their battery build on: all but the sessions that they make again."""
    begin = readings.groupby("battery_id")["time"].min().reindex(cycles["battery_id"]).set_axis(cycles.index)
    return ~((cycles["end_time"] > begin).to_numpy(dtype=bool) & _are_sessions(cycles))


def _times(seconds: FloatArray) -> pd.Series:
    return pd.Series(pd.to_datetime(np.round(seconds * 1e6).astype("int64"), unit="us", utc=True))


def _with_features(rows: pd.DataFrame, features: FloatArray) -> pd.DataFrame:
    table = pd.DataFrame(features, columns=list(CYCLE_FEATURES))
    return pd.concat([rows.reset_index(drop=True), table], axis=1)


def _measured_health(folded: _Folded, cycles: pd.DataFrame, batteries: pd.DataFrame) -> pd.DataFrame:
    """Every known health: `battery_id`, `cycle_index`, `soh_fraction`, ascending."""
    nominal = batteries.set_index("battery_id")["nominal_capacity_ah"]
    measured = cycles["capacity_ah"] / cycles["battery_id"].map(nominal).astype(float)
    published = cycles[["battery_id", "cycle_index"]].assign(soh_fraction=measured.fillna(cycles["soh"] / 100.0))
    sessions = folded.health[["battery_id", "cycle_index"]].assign(soh_fraction=folded.health["soh"] / 100.0)
    known = pd.concat([published, sessions], ignore_index=True).dropna()
    known = known.sort_values(["battery_id", "cycle_index"], kind="stable")
    return known.drop_duplicates(["battery_id", "cycle_index"], keep="first")


def _label_health(folded: _Folded, cycles: pd.DataFrame, batteries: pd.DataFrame, params: LabelParams) -> pd.DataFrame:
    """The folded cycles with `soh_fraction`, `remaining_cycles`, `fails_within_horizon` and `life_quarter`."""
    measured = _measured_health(folded, cycles, batteries)
    rows = folded.health.merge(measured, on=["battery_id", "cycle_index"], how="left")
    rows["time"] = rows["end_time"]
    faults = _fault_cycles(folded.readings, cycles, params)
    watched = pd.concat(
        [frame[["battery_id", "cycle_index"]] for frame in (rows, measured, folded.readings)], ignore_index=True
    )
    last_observed = watched.groupby("battery_id")["cycle_index"].max()
    parts: list[pd.DataFrame] = []
    no_cycles = np.empty(0)
    reporting = _reporting_warnings(folded.readings, cycles)
    for battery_id, part in rows.groupby("battery_id", sort=True):
        health = measured[measured["battery_id"] == battery_id]
        index = part["cycle_index"].to_numpy(dtype=float)
        last = float(last_observed[battery_id])
        eol = labels.end_of_life(
            health["cycle_index"].to_numpy(dtype=float), health["soh_fraction"].to_numpy(), params.eol_fraction
        )
        events = faults.get(str(battery_id), no_cycles)
        watched_for_failure = len(health) > 0 or str(battery_id) in reporting
        failure = labels.failure_within(
            index,
            horizon_cycles=params.failure_horizon_cycles,
            event_cycles=events,
            eol_cycle=eol,
            last_observed_cycle=last if watched_for_failure else -np.inf,
        )
        parts.append(
            part.assign(
                remaining_cycles=labels.remaining_cycles(index, eol),
                fails_within_horizon=failure,
                life_quarter=labels.life_quarter(index, last if np.isnan(eol) else eol),
            )
        )
    columns = ["remaining_cycles", "fails_within_horizon", "life_quarter"]
    return pd.concat(parts, ignore_index=True) if parts else rows.reindex(columns=[*rows.columns, *columns])


def _reporting_warnings(readings: pd.DataFrame, cycles: pd.DataFrame) -> set[str]:
    """The batteries whose silence says something, as they have ever reported an alarm level."""
    frames = [frame for frame in (readings, cycles) if "warning_level" in frame]
    return {
        str(battery_id)
        for frame in frames
        for battery_id in frame.dropna(subset="warning_level")["battery_id"].unique()
    }


def _fault_cycles(readings: pd.DataFrame, cycles: pd.DataFrame, params: LabelParams) -> dict[str, FloatArray]:
    """Cycles at which each battery raised an alarm of at least `fault_warning_level`."""
    frames = [
        frame.loc[frame["warning_level"] >= params.fault_warning_level, ["battery_id", "cycle_index"]]
        for frame in (readings, cycles)
        if "warning_level" in frame
    ]
    events = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"battery_id": [], "cycle_index": []})
    return {
        str(battery_id): np.unique(part["cycle_index"].to_numpy(dtype=float))
        for battery_id, part in events.groupby("battery_id")
    }


def _label_temperature(readings: pd.DataFrame, params: LabelParams) -> pd.DataFrame:
    """Every `temperature_every_s` one reading of each battery, with `temperature_ahead_c`."""
    parts: list[pd.DataFrame] = []
    for _, part in readings.groupby("battery_id", sort=True):
        time_s = part["time"].astype("int64").to_numpy() / 1e6
        ahead = labels.temperature_ahead(
            time_s,
            part["temperature"].to_numpy(dtype=float),
            horizon_s=params.temperature_horizon_s,
            tolerance_s=params.temperature_tolerance_s,
            max_gap_s=MAX_GAP_S,
        )
        tick = np.floor(time_s / params.temperature_every_s)
        first_of_tick = np.diff(tick, prepend=-np.inf) > 0
        share = (time_s - time_s[0]) / max(time_s[-1] - time_s[0], 1.0)
        kept = part.assign(temperature_ahead_c=ahead, life_quarter=np.minimum(np.floor(4.0 * share) + 1.0, 4.0))
        parts.append(kept[first_of_tick])
    columns = [*readings.columns, "temperature_ahead_c", "life_quarter"]
    return pd.concat(parts, ignore_index=True) if parts else readings.reindex(columns=columns)


def _why_not(target: Target, frame: pd.DataFrame, labelled: pd.DataFrame, params: LabelParams) -> str | None:
    """The reason why `target` cannot be learned from what there is, or None."""
    if frame.empty:
        what = "readings" if target.cadence == "reading" else "cycles with any statistic to learn from"
        return f"the source has no {what}"
    if len(labelled) < params.min_rows:
        missing = {
            "soh": "no measured capacity goes with the cycles",
            "temperature": "no reading has another one at the horizon without a gap between",
            "rul": "no battery was watched until its end of life",
            "failure": "neither failure nor its absence within the horizon is known",
        }[target.name]
        return f"{len(labelled)} labelled rows, at least {params.min_rows} are needed: {missing}"
    if target.kind == "classification":
        counts = labelled[target.label].value_counts()
        rarest = min(int(counts.get(value, 0)) for value in (0.0, 1.0))
        if rarest < params.min_events:
            return (
                f"of {len(labelled)} labelled rows {int(counts.get(1.0, 0))} are followed by a failure within the "
                f"horizon and {int(counts.get(0.0, 0))} are not; at least {params.min_events} of each are needed"
            )
    return None
