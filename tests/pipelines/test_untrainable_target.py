"""A target that cannot be trained costs the others nothing: the stages on histories with too few failures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from features.labels import LabelParams
from features.table import FeatureTables
from features.targets import TARGET_NAMES, TARGETS
from pipelines import evaluate, features, register, train, tune
from telemetry.contract import BATTERY_FIELDS, READING_FIELDS
from telemetry.settings import Settings
from tests.features.conftest_features import empty_frame, laboratory
from training.params import MODELS, REPORTS, TUNED, VALIDATED, read_json
from training.registry.registry_store import RegistryStore
from training.splits import UntrainableError, split

ROOT = Path(__file__).resolve().parents[2]
HORIZON = 20


def cells(fades: dict[str, float], *, cycles: int = 160) -> pd.DataFrame:
    """Laboratory cycles of cells by their loss per cycle; 0.0013 reaches 80 % after about 140 cycles, 0.0005 never."""
    frames = [laboratory(name, cycles, fade, seed=number) for number, (name, fade) in enumerate(fades.items())]
    return pd.concat(frames, ignore_index=True)


def run_stages(cycles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """All stages from `features` on, in the present folder; the content of metrics.json."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["targets"] |= {"failure_horizon_cycles": HORIZON}
    params["tune"] |= {"trials": 1, "max_rows": 400, "n_estimators": [10], "max_depth": [8], "max_features": [0.2]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    VALIDATED.mkdir(parents=True)
    batteries = pd.DataFrame({"battery_id": cycles["battery_id"].unique()}).assign(nominal_capacity_ah=1.0)
    empty_frame(READING_FIELDS).to_parquet(VALIDATED / "readings.parquet")
    cycles.to_parquet(VALIDATED / "cycles.parquet")
    batteries.reindex(columns=[field.name for field in BATTERY_FIELDS]).to_parquet(VALIDATED / "batteries.parquet")
    features.main()
    for stage in (tune, train):
        for target in TARGET_NAMES:
            monkeypatch.setattr(sys, "argv", [stage.__name__, target])
            stage.main()
    evaluate.main()
    register.main()
    return dict(read_json(REPORTS / "metrics.json"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWIN_MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TWIN_VAR", str(tmp_path / "var"))
    (tmp_path / "var").mkdir()
    shutil.copy(empty_registry, tmp_path / "var" / "mlflow.db")


def test_four_cells_whose_failures_are_in_the_last_fifth_of_each_record(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = run_stages(cells({f"cell-{k}": 0.0012 + 0.00005 * k for k in range(4)}), monkeypatch)
    assert set(metrics["targets"]) == {"soh", "rul", "failure"}
    assert "1 of 4 batteries held out for the gate" in metrics["split"]["failure"]
    assert metrics["targets"]["failure"]["brier"] < metrics["targets"]["failure"]["baselines"]["base_rate"]["brier"]


def test_failures_of_one_battery_leave_the_other_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six cells, of which one has alarms and another is the only one that reaches its end of life."""
    cycles = cells({f"cell-{k}": 0.0013 if k == 4 else 0.0005 for k in range(6)})
    metrics = run_stages(cycles, monkeypatch)
    assert set(metrics["targets"]) == {"soh"}
    assert metrics["not_available"]["rul"].startswith("only cell-4 was observed until its end of life")
    assert (
        "followed by a failure are known of 1 battery and rows that are not of 6" in metrics["not_available"]["failure"]
    )
    assert read_json(TUNED / "failure.json")["reason"] == metrics["not_available"]["failure"]
    assert read_json(MODELS / "failure" / "fit.json")["available"] is False

    store = RegistryStore.open(Settings(), "battery")
    assert store.aliases().challengers == {"soh": 1}
    assert store.unavailable() == metrics["not_available"]


def tables(cycles: pd.DataFrame) -> FeatureTables:
    batteries = pd.DataFrame({"battery_id": cycles["battery_id"].unique()}).assign(nominal_capacity_ah=1.0)
    batteries = batteries.reindex(columns=[field.name for field in BATTERY_FIELDS])
    return features.features(
        empty_frame(READING_FIELDS), cycles, batteries, LabelParams(failure_horizon_cycles=HORIZON)
    )


def test_alarms_of_one_battery_cannot_be_split() -> None:
    cycles = cells({f"cell-{k}": 0.0005 for k in range(6)}).assign(warning_level=0.0)
    cycles.loc[(cycles["battery_id"] == "cell-2") & (cycles["cycle_index"] == 120), "warning_level"] = 3.0
    built = tables(cycles)
    assert set(built.tables) == {"soh", "failure"}
    with pytest.raises(UntrainableError, match="are known of 1 battery and rows that are not of 6"):
        split(built.tables["failure"], TARGETS["failure"])


def test_remaining_life_of_cells_with_equal_lives_is_no_leak() -> None:
    """The age alone determines it, which is arithmetic: the target is trained and judged by its baselines."""
    cycles = cells({f"cell-{k}": 0.0013 for k in range(4)})
    same = np.tile(cycles.loc[cycles["battery_id"] == "cell-0", "capacity_ah"].to_numpy(), 4)
    noise = np.random.default_rng(0).normal(0.0, 0.003, len(cycles))
    cycles["capacity_ah"] = same + np.where(np.abs(same - 0.8) > 0.02, noise, 0.0)
    assert set(tables(cycles).tables) == {"soh", "rul", "failure"}


def test_a_health_that_is_a_formula_of_the_age_is_left_out_alone() -> None:
    cycles = cells({f"cell-{k}": 0.0012 + 0.00005 * k for k in range(6)})
    cycles["capacity_ah"] = 1.0 - (0.0014 + 0.00001 * (cycles["battery_id"] < "cell-3")) * cycles["cycle_index"]
    built = tables(cycles)
    assert "determines soh on held-out batteries" in built.not_available["soh"]
    assert {"rul", "failure"} <= set(built.tables)


def test_a_constant_health_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of packs that report 100 % for years."""
    metrics = run_stages(cells({f"cell-{k}": 0.0005 for k in range(6)}).assign(capacity_ah=1.0), monkeypatch)
    assert set(metrics["targets"]) == {"soh"}
