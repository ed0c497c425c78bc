"""What a table of experiments shows of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from pipelines.evaluate import headline

ROOT = Path(__file__).resolve().parents[2]


def test_the_headline_is_numbers_only_and_those_of_the_report() -> None:
    metrics = json.loads((ROOT / "reports" / "metrics.json").read_text())
    shown = headline(metrics)
    assert set(shown) == {"out_of_fold", "gate"}
    assert shown["out_of_fold"]["soh"] == {key: metrics["targets"]["soh"][key] for key in ("mae", "skill")}
    assert shown["gate"]["failure"] == {key: metrics["gate"]["failure"][key] for key in ("brier", "skill")}
    figures = [figure for part in shown.values() for entry in part.values() for figure in entry.values()]
    assert all(isinstance(figure, float) for figure in figures)
    assert json.loads((ROOT / "reports" / "summary.json").read_text()) == shown


def test_a_target_that_is_not_available_is_left_out() -> None:
    metrics = {"targets": {"soh": {"mae": 0.1, "skill": 0.5, "rmse": 0.2}}, "gate": {}, "not_available": {"rul": "no"}}
    assert headline(metrics) == {"out_of_fold": {"soh": {"mae": 0.1, "skill": 0.5}}, "gate": {}}


def test_dvc_shows_the_headline_and_keeps_the_report() -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]
    assert [next(iter(metric)) for metric in stage["metrics"]] == ["reports/summary.json"]
    assert {"reports/metrics.json": {"cache": False}} in stage["outs"]
