"""Comparison of the forests with the simulated truth on a fleet with many failures: `make oracle`.

The oracle knows the true state of a battery, and its failure probability is the share of 1,000 simulated futures with
the event inside the horizon (`simulator.futures`).  The forests get the telemetry.  Both predict the same rows of
batteries that were not trained on; writes `reports/oracle.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.progress import track

from features.labels import LabelParams
from features.table import build
from features.targets import TARGETS
from simulator.battery import Battery, random_streams
from simulator.battery_state import BatteryState
from simulator.fleet import DAYS_PER_YEAR, SimulateParams, batteries_table, logs_until, new_battery
from simulator.futures import failure_share
from telemetry.contract import CYCLE_FIELDS
from telemetry.parameters import load_params
from telemetry.sources.base import empty_table
from training.crossfit import TrainParams, fit_thinned, out_of_fold, predict_with_baselines
from training.evaluate import errors_by_model
from training.forests import ForestParams
from training.measures import classification_measures, error_measure, skill
from training.params import read_json, write_json
from training.splits import split

TARGETS_COMPARED = ("soh", "rul", "failure")
#: Name of the table of the batteries without an end of life among the feature tables.
CENSORED = "rul_censored"
USES, DEFECTS = 20, 50
#: Quantiles of the change of the predicted remaining life between two rows, less the cycles between them.
QUANTILES = (0.5, 0.9, 0.95)
TUNING = Path("reports/tuning")
REPORT = Path("reports/oracle.json")
Tables = dict[str, pd.DataFrame]


class Life(NamedTuple):
    """True states of a battery at the ends of its logs, and when these were, seconds since 1970."""

    battery: Battery
    ends_s: list[float]
    states: list[BatteryState]


def simulated_life(params: SimulateParams, seed: int, index: int) -> tuple[Life, pd.DataFrame]:
    """Battery `index` with its true states, and its readings."""
    years = random_streams(seed, index).entry.uniform(*params.years_in_service)
    end = datetime.fromtimestamp(params.observation_end_s, UTC)
    since = (end - timedelta(days=DAYS_PER_YEAR * years)).replace(hour=0, minute=0, second=0, microsecond=0)
    battery = new_battery(params, seed, index, since)
    logs, life = [], Life(battery, [], [])
    for log in logs_until(battery, params, params.observation_end_s):
        logs.append(log)
        life.ends_s.append(battery.state.time_s)
        life.states.append(battery.state)
    return life, battery.readings(np.concatenate(logs)) if logs else pd.DataFrame()


def feature_tables(params: SimulateParams, seed: int, indices: Sequence[int]) -> Tables:
    """Feature tables of some batteries of the fleet."""
    lives = [simulated_life(params, seed, index) for index in indices]
    readings = pd.concat([rows for _, rows in lives if len(rows)], ignore_index=True)
    batteries = batteries_table([life.battery.identity.row() for life, _ in lives])
    labels = LabelParams(min_rows=1, min_events=0)
    built = build(readings, empty_table(CYCLE_FIELDS), batteries, labels)
    tables = {name: built.tables[name] for name in TARGETS_COMPARED if name in built.tables}
    return {**tables, CENSORED: built.censored["rul"]}


def all_tables(params: SimulateParams, seed: int, workers: int, per_part: int = 10) -> Tables:
    """Feature tables of the whole fleet."""
    parts = [
        list(range(begin, min(begin + per_part, params.batteries))) for begin in range(0, params.batteries, per_part)
    ]
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(feature_tables, [params] * len(parts), [seed] * len(parts), parts)
        found = list(track(results, "simulating and computing features", total=len(parts)))
    return {
        name: pd.concat([tables[name] for tables in found if name in tables], ignore_index=True)
        for name in (*TARGETS_COMPARED, CENSORED)
    }


def oracle(params: SimulateParams, seed: int, rows: pd.DataFrame, labels: LabelParams, workers: int) -> np.ndarray:
    """True failure probability at each of `rows` (battery_id, time)."""
    by_battery = [part for _, part in rows.groupby("battery_id")]
    times = [part["time"].astype("int64").to_numpy() / 1e6 for part in by_battery]
    numbers = [int(str(part["battery_id"].iloc[0]).removeprefix("EV-")) - 1 for part in by_battery]
    count = len(by_battery)
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(_oracle_of, [params] * count, [seed] * count, numbers, times, [labels] * count)
        found = list(track(results, "simulating futures", total=count))
    shares = pd.Series(np.concatenate(found), index=np.concatenate([part.index.to_numpy() for part in by_battery]))
    return shares.reindex(rows.index).to_numpy()


def _oracle_of(params: SimulateParams, seed: int, index: int, times_s: np.ndarray, labels: LabelParams) -> list[float]:
    life, _ = simulated_life(params, seed, index)
    rng = np.random.default_rng([seed, index])
    shares = []
    for time_s in times_s:
        # A session ends within its log, at the end of which the state is known.
        log = min(int(np.searchsorted(life.ends_s, time_s - 1.0)), len(life.states) - 1)
        shares.append(
            failure_share(
                life.states[log],
                life.battery.design,
                labels.failure_horizon_cycles,
                labels.eol_fraction,
                USES,
                DEFECTS,
                rng,
            )
        )
    return shares


def sampled(rows: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """At most `count` of `rows`, drawn at random."""
    return rows.sample(min(count, len(rows)), random_state=seed).sort_index()


def steadiness(predictions: pd.DataFrame) -> dict[str, float]:
    """Quantiles of |RUL(n + k) - RUL(n) + k| between successive rows, k cycles apart, relative to the mean error."""
    ordered = predictions.sort_values(["battery_id", "cycle_index"])
    groups = ordered.groupby("battery_id")
    changed = (groups["predicted"].diff() + groups["cycle_index"].diff()).abs().dropna()
    error = float((predictions["predicted"] - predictions["actual"]).abs().mean())
    return {f"p{round(100 * q)}_over_mae": float(changed.quantile(q) / error) for q in QUANTILES}


def compared(params: SimulateParams, seed: int, workers: int, rows: int) -> dict[str, Any]:
    """Content of the report."""
    tables, labels = all_tables(params, seed, workers), LabelParams()
    max_rows = TrainParams.read().max_rows
    result: dict[str, Any] = {
        "fleet": params.model_dump(mode="json"),
        "seed": seed,
        "futures": USES * DEFECTS,
        "targets": {},
    }
    for name in TARGETS_COMPARED:
        table, target = tables[name], TARGETS[name]
        division = split(table, target)
        forest = ForestParams(**read_json(TUNING / f"{name}.json")["params"])
        censored = tables[CENSORED] if name == "rul" else None
        train, gate = table[division.final_rows()], table[division.gate]
        predictions = predict_with_baselines(
            fit_thinned(train, target, forest, seed, max_rows, censored), train, gate, target, forest, train
        )
        predictions.index = gate.index
        own, of_baselines = errors_by_model(target, predictions)
        primary = error_measure(target)
        errors = {baseline: measured[primary] for baseline, measured in of_baselines.items()}
        result["targets"][name] = {
            "gate_batteries": int(gate["battery_id"].nunique()),
            "gate_rows": len(gate),
            **own,
            "skill": skill(own[primary], errors),
            "baselines": errors,
        }
        if name == "rul":
            held_out = out_of_fold(table, target, forest, division, seed, max_rows=max_rows, censored=censored)
            result["targets"][name]["steadiness"] = steadiness(held_out)
        if name == "failure":
            chosen = sampled(predictions, rows, seed)
            true = oracle(params, seed, chosen, labels, workers)
            actual = chosen["actual"].to_numpy()
            forest_measures = classification_measures(actual, chosen["predicted"].to_numpy())
            oracle_measures = classification_measures(actual, true)
            result["targets"][name]["failed_batteries"] = int(
                table.loc[table[target.label] > 0.0, "battery_id"].nunique()
            )
            result["targets"][name]["oracle"] = {
                "rows": len(chosen),
                "forest": forest_measures,
                "oracle": oracle_measures,
                "auc_share": (forest_measures["auc"] - 0.5) / (oracle_measures["auc"] - 0.5),
                "brier_skill_share": forest_measures["brier_skill"] / oracle_measures["brier_skill"],
            }
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batteries", type=int, default=600)
    parser.add_argument("--days-between-logs", type=float, default=60.0)
    parser.add_argument("--rows", type=int, default=1500, help="gate rows at which the oracle is computed")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    content = load_params()
    params = SimulateParams.of(content).model_copy(
        update={"batteries": given.batteries, "days_between_logs": given.days_between_logs}
    )
    # Another seed than that of the pipeline, whose fleet the forests' parameters were tuned on.
    report = compared(params, content["seed"] + 1, given.workers, given.rows)
    write_json(REPORT, report)
    for name, entry in report["targets"].items():
        print(name, entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
