"""Model card: sections, definitions and the description of held-out data."""

from __future__ import annotations

import json

import pytest

from features.targets import TARGET_NAMES
from tests.training.small_models import GATE_BATTERIES, ModelFiles
from training.model_card import CardContext, model_card


def card(models: ModelFiles, target: str, source: str = "matr") -> str:
    models.train(target)
    fit = json.loads((models.folder / target / "fit.json").read_text())
    evaluation = {kind: models.metrics[kind][target] for kind in ("targets", "gate")}
    return model_card(target, fit, evaluation, CardContext(source, data_sha256="d" * 64, git_commit="c" * 40))


@pytest.mark.parametrize("target", TARGET_NAMES)
def test_card_has_every_section(models: ModelFiles, target: str) -> None:
    text = card(models, target)
    for heading in ("Intended use", "Training data", "Evaluation", "quarter of life", "Limits", "Reproduction"):
        assert any(line.startswith("## ") and heading in line for line in text.splitlines()), heading
    assert "| mean |" in text
    assert "extrapolate" in text
    assert "`B08`, `B09`" in text
    assert "c" * 40 in text
    assert "d" * 64 in text
    assert "nan" not in text
    assert "None" not in text.replace("max_depth None", "")


def test_card_of_the_simulated_fleet_states_that_it_is_simulated(models: ModelFiles) -> None:
    assert "simulated" in card(models, "soh", source="fleet")
    assert "simulated" not in card(models, "soh", source="matr")


def test_card_of_a_split_by_time_names_the_held_out_rows(models: ModelFiles) -> None:
    models.train("soh", train_batteries=GATE_BATTERIES)
    fit = json.loads((models.folder / "soh" / "fit.json").read_text())
    text = model_card("soh", fit, {}, CardContext("csv"))
    assert "used neither" not in text
    assert "the last rows of `B08`, `B09`" in text


def test_card_has_the_label_definitions_of_the_fit(models: ModelFiles) -> None:
    assert "300 s ahead" in card(models, "temperature")
    assert "100 equivalent full cycles" in card(models, "failure")
    assert "below 80%" in card(models, "rul")


def test_card_without_evaluation(models: ModelFiles) -> None:
    models.train("soh")
    fit = json.loads((models.folder / "soh" / "fit.json").read_text())
    text = model_card("soh", fit, {}, CardContext("matr"))
    assert "Unknown." in text
    assert "git commit: unknown" in text
