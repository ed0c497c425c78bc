"""The leakage check rejects the target, future values and formulas of the target, and accepts valid features."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from features import leakage_check
from features.labels import LabelParams
from features.leakage_check import LeakageError
from features.table import KEYS, build
from features.targets import TARGETS

SOH = TARGETS["soh"]
Cells = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture
def table(cells: Cells, no_readings: pd.DataFrame) -> pd.DataFrame:
    cycles, batteries = cells
    return build(no_readings, cycles, batteries, LabelParams()).tables["soh"]


def test_valid_features_pass(table: pd.DataFrame) -> None:
    leakage_check.reject_labels(SOH, SOH.feature_names)
    leakage_check.reject_target_formulas(table, SOH, SOH.feature_names)


@pytest.mark.parametrize(
    "name", ["soh_fraction", "capacity_ah", "capacity_ah__last", "soh", "throughput_ah__trend_20_70"]
)
def test_label_columns_are_rejected(name: str) -> None:
    with pytest.raises(LeakageError, match=name) as error:
        leakage_check.reject_labels(SOH, (*SOH.feature_names, name))
    assert error.value.field == name


def test_no_target_uses_its_own_label() -> None:
    for target in TARGETS.values():
        leakage_check.reject_labels(target, target.feature_names)


def test_future_value_is_rejected(cells: Cells, no_readings: pd.DataFrame) -> None:
    cycles, batteries = cells
    half = cycles[cycles["cycle_index"] <= 80]

    def leaky(frame: pd.DataFrame) -> pd.DataFrame:
        built = build(no_readings, frame, batteries, LabelParams()).tables["soh"]
        return built.assign(slope_ahead=built.groupby("battery_id")["soh_fraction"].transform("min"))

    key = ("battery_id", "cycle_index")
    leakage_check.reject_future_values(leaky(cycles), leaky(half), SOH.feature_names, key)
    with pytest.raises(LeakageError, match="slope_ahead comes from the future"):
        leakage_check.reject_future_values(leaky(cycles), leaky(half), (*SOH.feature_names, "slope_ahead"), key)


def test_centred_smoothing_is_rejected(cells: Cells, no_readings: pd.DataFrame) -> None:
    cycles, batteries = cells

    def centred(frame: pd.DataFrame) -> pd.DataFrame:
        built = build(no_readings, frame, batteries, LabelParams()).tables["soh"]
        smooth = built.groupby("battery_id")["cc_charge_time_s__last"].transform(
            lambda values: values.rolling(5, center=True, min_periods=1).mean()
        )
        return built.assign(smooth=smooth)

    with pytest.raises(LeakageError, match="smooth"):
        leakage_check.reject_future_values(
            centred(cycles), centred(cycles[cycles["cycle_index"] <= 80]), ("smooth",), ("battery_id", "cycle_index")
        )


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (lambda t: {"health_index": 3.0 - 2.0 * t["soh_fraction"]}, "health_index"),
        (lambda t: {"wear": np.exp(-5 * t["soh_fraction"])}, "wear"),
        (
            # Throughput and depth of discharge: neither alone, but their quotient is the capacity.
            lambda t: {
                "moved_ah": t["soh_fraction"] * (depth := np.random.default_rng(0).uniform(0.2, 0.9, len(t))),
                "depth": depth,
            },
            "moved_ah|depth",
        ),
        (
            lambda t: {
                "upper": t["soh_fraction"] + (noise := np.random.default_rng(1).normal(0, 1, len(t))),
                "lower": noise,
            },
            "upper|lower",
        ),
    ],
    ids=["linear", "monotone", "quotient", "difference"],
)
def test_formula_of_the_target_is_rejected(table: pd.DataFrame, features: object, expected: str) -> None:
    assert callable(features)
    added = features(table)
    leaky = table.assign(**added)
    names = (*SOH.feature_names, *added)
    with pytest.raises(LeakageError, match=f"({expected}) determines soh"):
        leakage_check.reject_target_formulas(leaky, SOH, names)


def test_formula_of_a_class_label_is_rejected(cells: Cells, no_readings: pd.DataFrame) -> None:
    cycles, batteries = cells
    target = TARGETS["failure"]
    table = build(no_readings, cycles, batteries, LabelParams(failure_horizon_cycles=20)).tables["failure"]
    leakage_check.reject_target_formulas(table, target, target.feature_names)
    leaky = table.assign(alarm_soon=7.0 * table[target.label])
    with pytest.raises(LeakageError, match="alarm_soon"):
        leakage_check.reject_target_formulas(leaky, target, (*target.feature_names, "alarm_soon"))


def remaining(lives: dict[str, float]) -> pd.DataFrame:
    """Remaining life of cells at every cycle, with features that follow the age with noise."""
    rng = np.random.default_rng(3)
    target = TARGETS["rul"]
    parts = []
    for name, life in lives.items():
        age = np.arange(1.0, life)
        part = pd.DataFrame(rng.normal(size=(len(age), len(target.feature_names))), columns=list(target.feature_names))
        parts.append(part.assign(battery_id=name, cycle_index=age, cycles=age, **{target.label: life - age}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    "lives", [{"a": 300.0}, {"a": 300.0, "b": 300.0}, {"a": 301.0, "b": 300.0, "c": 301.0}], ids=["one", "two", "three"]
)
def test_age_against_remaining_life_is_arithmetic_and_no_leak(lives: dict[str, float]) -> None:
    target = TARGETS["rul"]
    leakage_check.reject_target_formulas(remaining(lives), target, target.feature_names)


def test_end_of_life_among_the_features_is_rejected() -> None:
    """Negative control: remaining life as the difference of a known end and the age."""
    target = TARGETS["rul"]
    table = remaining({"a": 300.0, "b": 410.0, "c": 250.0, "d": 350.0})
    leakage_check.reject_target_formulas(table, target, target.feature_names)
    leaky = table.assign(end=table[target.label] + table["cycle_index"])
    with pytest.raises(LeakageError, match="determines rul"):
        leakage_check.reject_target_formulas(leaky, target, (*target.feature_names, "end"))


def test_keys_are_not_features() -> None:
    for target in TARGETS.values():
        assert not set(KEYS) & set(target.feature_names)
        assert dataclasses.replace(target).feature_names == target.feature_names
