"""Drift reference: sampled training rows with out-of-fold predictions, registered with the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.targets import TARGETS
from monitoring.drift.drift_monitor import registered_references
from telemetry.settings import Settings
from tests.training.small_models import GATE, ModelFiles
from training.registry.drift_reference import MAX_BATTERIES, MAX_ROWS_PER_BATTERY, reference_rows
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.splits import split

SOH = TARGETS["soh"]


def table_of(batteries: int, rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A training table and its out-of-fold predictions."""
    rng = np.random.default_rng(4)
    n = batteries * rows
    table = pd.DataFrame(rng.normal(size=(n, len(SOH.feature_names))), columns=list(SOH.feature_names)).assign(
        battery_id=np.repeat([f"EV-{number:03d}" for number in range(batteries)], rows),
        time=pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(np.tile(np.arange(rows), batteries), unit="D"),
        cycle_index=np.tile(np.arange(float(rows)), batteries),
        life_quarter=1.0,
        soh_fraction=rng.uniform(0.8, 1.0, n),
    )
    in_folds = table[split(table, SOH).fold >= 0]
    out_of_fold = in_folds[["battery_id", "cycle_index"]].assign(
        actual=in_folds["soh_fraction"], predicted=in_folds["soh_fraction"] + 0.01 * in_folds["cycles"]
    )
    return table, out_of_fold.reset_index(drop=True)


@pytest.mark.parametrize(("batteries", "rows"), [(6, 50), (MAX_BATTERIES + 9, 7), (1, 60)])
def test_reference_has_training_rows_with_their_predictions(batteries: int, rows: int) -> None:
    table, out_of_fold = table_of(batteries, rows)
    sample = reference_rows(table, out_of_fold, SOH, seed=7)
    assert sample["battery_id"].nunique() == min(batteries, MAX_BATTERIES)
    assert list(sample.columns[:5]) == ["battery_id", "time", "cycle_index", "actual", "predicted"]
    assert (sample["predicted"] - sample["actual"]).to_numpy() == pytest.approx(
        0.01 * sample["feature_cycles"].to_numpy()
    )
    both = sample.merge(table, on=["battery_id", "cycle_index"])
    assert len(both) == len(sample)
    assert (both["feature_cycles"] == both["cycles"]).all()
    pd.testing.assert_frame_equal(sample, reference_rows(table, out_of_fold, SOH, seed=7))


def test_long_records_are_thinned_evenly() -> None:
    table, out_of_fold = table_of(5, 3 * MAX_ROWS_PER_BATTERY)
    sample = reference_rows(table, out_of_fold, SOH, seed=7)
    assert len(sample) == 5 * MAX_ROWS_PER_BATTERY
    assert sample["cycle_index"].groupby(sample["battery_id"]).diff().dropna().eq(3.0).all()


def test_reference_is_registered_with_the_model_and_loaded_again(
    tmp_path: Path, models: ModelFiles, provenance: Provenance, store: RegistryStore, settings: Settings
) -> None:
    table, out_of_fold = table_of(6, 50)
    for target in ("soh", "rul"):
        models.train(target)
    table.to_parquet(tmp_path / "soh.parquet")
    out_of_fold.to_parquet(models.folder / "soh" / "oof.parquet")
    tables = {"soh": tmp_path / "soh.parquet"}
    register_all(store, models.folder, models.metrics, GATE, replace(provenance, tables=tables), by="a test")
    sample = store.reference("soh", 1)
    assert sample is not None
    pd.testing.assert_frame_equal(sample, reference_rows(table, out_of_fold, SOH, seed=0), check_dtype=False)
    assert store.reference("rul", 1) is None

    reference_of = registered_references(settings)
    reference = reference_of("soh", "battery-soh", "1")
    assert reference is not None
    assert reference.names == SOH.feature_names
    assert reference.batteries == 6
    percent = reference.error / reference.features[:, reference.names.index("cycles")]
    assert percent == pytest.approx(np.ones(len(percent)))
    for target, name, version in (("rul", "battery-rul", "1"), ("soh", "battery-soh", "9"), ("soh", "mine", "1"),
                                  ("soh", "other-soh", "1"), ("soh", "battery-soh", "newest")):  # fmt: skip
        assert reference_of(target, name, version) is None
    assert registered_references(Settings(var=tmp_path / "nowhere"))("soh", "battery-soh", "1") is None
