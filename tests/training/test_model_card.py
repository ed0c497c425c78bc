"""The card says what must be said."""

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
def test_every_section_is_there(models: ModelFiles, target: str) -> None:
    text = card(models, target)
    for heading in ("for", "trained on", "good", "quarter of life", "Limits", "repeat it"):
        assert any(line.startswith("## ") and heading in line for line in text.splitlines()), heading
    assert "| mean |" in text
    assert "extrapolate" in text
    assert "`B08`, `B09`" in text
    assert "c" * 40 in text
    assert "d" * 64 in text
    assert "nan" not in text
    assert "None" not in text.replace("max_depth None", "")


def test_a_simulated_fleet_is_called_one(models: ModelFiles) -> None:
    assert "simulated" in card(models, "soh", source="fleet")
    assert "simulated" not in card(models, "soh", source="matr")


def test_a_battery_split_by_time_is_not_called_unseen(models: ModelFiles) -> None:
    models.train("soh", train_batteries=GATE_BATTERIES)
    fit = json.loads((models.folder / "soh" / "fit.json").read_text())
    text = model_card("soh", fit, {}, CardContext("csv"))
    assert "never seen" not in text
    assert "the last rows of `B08`, `B09`" in text


def test_definitions_are_those_of_the_fit(models: ModelFiles) -> None:
    assert "300 s ahead" in card(models, "temperature")
    assert "100 equivalent full cycles" in card(models, "failure")
    assert "below 80%" in card(models, "rul")


def test_a_card_without_evaluation_still_reads(models: ModelFiles) -> None:
    models.train("soh")
    fit = json.loads((models.folder / "soh" / "fit.json").read_text())
    text = model_card("soh", fit, {}, CardContext("matr"))
    assert "Not known." in text
    assert "git commit: unknown" in text
