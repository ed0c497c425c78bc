"""Domain of a model: cells like those in training are inside, foreign ones outside, whatever is known about them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor

from features.state import new_states, set_battery
from features.state_update import CYCLE_FEATURES, update_from_cycles
from telemetry.chemistries import CHEMISTRIES, CHEMISTRY_NAMES
from telemetry.contract import SIGNALS
from training.domain import Domain, properties_of, threshold

N_CYCLES = 150
LFP, NMC = (CHEMISTRY_NAMES.index(name) for name in ("LFP", "NMC"))


def cell_features(
    rng: np.random.Generator, *, chemistry: str = "LFP", capacity_ah: float = 1.1, stated_ah: float | None = 1.1
) -> np.ndarray[Any, Any]:
    """Features after each cycle of one cell that is charged and discharged completely and loses 10 % of its capacity.

    Args:
        capacity_ah: of the new cell.
        stated_ah: nominal capacity in the state; None: unknown.
    """
    states = new_states(1)
    set_battery(states[0], nominal_capacity_ah=stated_ah, chemistry=chemistry)
    lost = np.linspace(0.0, 0.1, N_CYCLES) * rng.uniform(0.8, 1.2)
    left = capacity_ah * (1.0 - lost) * rng.normal(1.0, 0.003, N_CYCLES)
    plateau = CHEMISTRIES[chemistry].nominal_voltage_v
    values = {
        "cc_charge_ah": 0.9 * left,
        "cv_charge_ah": 0.1 * left,
        "cc_charge_time_s": 3600.0 * (1.0 - lost) * rng.normal(1.0, 0.01, N_CYCLES),
        "cc_voltage_mean_v": plateau + 0.1 + 0.3 * lost + rng.normal(0.0, 0.002, N_CYCLES),
        "charge_voltage_mean_v": plateau + 0.12 + 0.3 * lost + rng.normal(0.0, 0.002, N_CYCLES),
        "discharge_voltage_mean_v": plateau - 0.1 - 0.3 * lost + rng.normal(0.0, 0.002, N_CYCLES),
        "charge_current_mean_a": np.full(N_CYCLES, capacity_ah) * rng.normal(1.0, 0.01, N_CYCLES),
        "discharge_current_mean_a": np.full(N_CYCLES, capacity_ah) * rng.normal(1.0, 0.01, N_CYCLES),
        "resistance_ohm": 0.02 * 1.1 / capacity_ah * (1.0 + 2.0 * lost) * rng.normal(1.0, 0.01, N_CYCLES),
        "temperature_mean_c": rng.normal(30.0, 1.0, N_CYCLES),
    }
    signals = np.column_stack([values.get(name, np.full(N_CYCLES, np.nan)) for name in SIGNALS])
    cycles = np.column_stack([np.arange(1.0, N_CYCLES + 1), signals])
    return update_from_cycles(states, np.zeros(N_CYCLES, dtype=np.int64), cycles).features[20:].astype(np.float32)


def cells(seed: int, count: int, **kind: Any) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [cell_features(rng, **kind) for _ in range(count)]


@pytest.fixture(scope="module")
def domain() -> Domain:
    """Of 30 LFP cells of 1.1 Ah, with the threshold from cells that are held out in turn."""
    rows = cells(1, 30)
    label = np.tile(np.arange(len(rows[0]), dtype=float), len(rows))
    forest = ExtraTreesRegressor(20, min_samples_leaf=3, random_state=0)
    forest.fit(np.nan_to_num(np.concatenate(rows), nan=-1e9), label)
    distances, ids = [], []
    for fold in range(5):
        training = np.concatenate([row for i, row in enumerate(rows) if i % 5 != fold])
        known = Domain.measured(CYCLE_FEATURES, training, forest.feature_importances_)
        for i in range(fold, len(rows), 5):
            distances.append(known.distance(rows[i]))
            ids += [str(i)] * len(rows[i])
    whole = Domain.measured(CYCLE_FEATURES, np.concatenate(rows), forest.feature_importances_)
    limit = threshold(pd.Series(ids), np.concatenate(distances))
    return Domain(**{**vars(whole), "threshold": limit, "chemistries": ("LFP",), "nominal_capacity_ah": (1.1, 1.1)})


def share_flagged(domain: Domain, found: list[np.ndarray[Any, Any]]) -> float:
    """Share of cells with most of their rows out of domain."""
    return float(np.mean([np.mean(domain.distance(rows) > domain.threshold) > 0.5 for rows in found]))


def test_held_out_cells_of_the_same_kind_are_inside(domain: Domain) -> None:
    assert share_flagged(domain, cells(2, 40)) <= 0.1


@pytest.mark.parametrize(
    "kind",
    [
        {"chemistry": "NMC", "capacity_ah": 2.0, "stated_ah": 2.0},
        {"chemistry": "NMC", "capacity_ah": 1.1},
        {"chemistry": "NMC", "capacity_ah": 2.0, "stated_ah": None},
        {"capacity_ah": 2.0},
        {"capacity_ah": 0.5},
        {"capacity_ah": 2.0, "stated_ah": None},
    ],
)
def test_foreign_cells_are_outside_by_their_features_alone(domain: Domain, kind: dict[str, Any]) -> None:
    """NMC-like and scaled cells, also without a nominal capacity; the properties are not looked at here."""
    assert share_flagged(domain, cells(3, 20, **kind)) >= 0.95


def test_properties_that_no_training_battery_has_are_foreign(domain: Domain) -> None:
    asked = [(LFP, 1.1), (LFP, 1.2), (LFP, np.nan), (LFP, 2.0), (NMC, 1.1)]
    chemistry, capacity = (np.array(values) for values in zip(*asked, strict=True))
    assert domain.is_foreign(chemistry, capacity).tolist() == [False, False, False, True, True]
    assert domain.describe_battery(LFP, 2.0) == (
        "the model was trained on nominal capacities of 1.1 Ah, this battery has 2 Ah"
    )
    assert domain.describe_battery(NMC, 1.1) == (
        "the model was trained on LFP cells, this battery is NMC, the default where none is given"
    )


def test_description_names_the_most_important_features(domain: Domain) -> None:
    row = cells(4, 1)[0][-1].astype(float)
    at = CYCLE_FEATURES.index("temperature_mean_c__last")
    row[at] = 55.0
    text = domain.describe(row)
    assert text.startswith("outside of the training data: ")
    assert f"temperature_mean_c__last is 55 ({domain.minimum[at]:.4g} to {domain.maximum[at]:.4g})" in text
    row[CYCLE_FEATURES.index("resistance_ohm__last")] = np.nan
    assert "resistance_ohm__last is missing" in domain.describe(row)


def test_age_beyond_training_is_outside(domain: Domain) -> None:
    row = cells(5, 1)[0][-1:].copy()
    assert not domain.outside(row)[0, CYCLE_FEATURES.index("cycles")]
    row[0, CYCLE_FEATURES.index("cycles")] = 10.0 * N_CYCLES
    assert domain.outside(row)[0, CYCLE_FEATURES.index("cycles")]


def test_domain_survives_the_model_file(domain: Domain) -> None:
    fit = json.loads(json.dumps({"feature_names": list(domain.names), "domain": domain.as_dict()}))
    again = Domain.of(fit)
    assert again is not None
    rows = np.concatenate(cells(6, 2, capacity_ah=1.4))
    np.testing.assert_array_equal(again.distance(rows), domain.distance(rows))
    assert again.chemistries == domain.chemistries
    assert again.nominal_capacity_ah == domain.nominal_capacity_ah
    assert Domain.of({}) is None


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 1000))
def test_training_rows_are_inside_and_rows_do_not_affect_each_other(n: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, columns))
    features[rng.random(features.shape) < 0.3] = np.nan
    domain = Domain.measured([f"f{j}" for j in range(columns)], features, rng.random(columns))
    assert (domain.distance(features) == 0.0).all()
    assert domain.weight.sum() == pytest.approx(float((~np.isnan(features)).any()))
    asked = rng.normal(0.0, 3.0, size=(5, columns))
    distance = domain.distance(asked)
    assert ((distance >= 0.0) & (distance <= 1.0 + 1e-12)).all()
    np.testing.assert_array_equal(distance, [domain.distance(row[None, :])[0] for row in asked])


def test_properties_of_training_batteries() -> None:
    batteries = pd.DataFrame(
        {
            "battery_id": ["A", "B", "C"],
            "chemistry": ["lfp", None, "NCA"],
            "nominal_capacity_ah": [1.1, np.nan, 3.0],
        }
    )
    assert properties_of(batteries, ["A"]) == {"chemistries": ("LFP",), "nominal_capacity_ah": (1.1, 1.1)}
    assert properties_of(batteries, ["A", "B"]) == {"chemistries": ("LFP", "NMC"), "nominal_capacity_ah": (1.1, 1.1)}
    unnamed = batteries.assign(chemistry=np.nan, nominal_capacity_ah=np.nan)
    assert properties_of(unnamed, ["A"]) == {"chemistries": ("NMC",), "nominal_capacity_ah": None}
    assert properties_of(batteries, ["D"]) == {"chemistries": ("NMC",), "nominal_capacity_ah": None}
