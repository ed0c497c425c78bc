"""Tests of `reports/summary.json`, the summary of the metrics for tables of experiments."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from pipelines.evaluate import headline

ROOT = Path(__file__).resolve().parents[2]


def test_the_summary_holds_only_numbers_and_agrees_with_the_metrics() -> None:
    metrics = json.loads((ROOT / "reports" / "metrics.json").read_text())
    shown = headline(metrics)
    assert set(shown) == {"out_of_fold", "gate"}
    assert shown["out_of_fold"]["soh"] == {key: metrics["targets"]["soh"][key] for key in ("mae", "skill")}
    assert shown["gate"]["failure"] == {key: metrics["gate"]["failure"][key] for key in ("brier", "skill")}
    figures = [figure for part in shown.values() for entry in part.values() for figure in entry.values()]
    assert all(isinstance(figure, float) for figure in figures)
    assert json.loads((ROOT / "reports" / "summary.json").read_text()) == shown


def test_an_unavailable_target_is_omitted() -> None:
    metrics = {"targets": {"soh": {"mae": 0.1, "skill": 0.5, "rmse": 0.2}}, "gate": {}, "not_available": {"rul": "no"}}
    assert headline(metrics) == {"out_of_fold": {"soh": {"mae": 0.1, "skill": 0.5}}, "gate": {}}


def test_dvc_shows_the_summary_as_metric_and_tracks_the_full_metrics() -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]
    assert [next(iter(metric)) for metric in stage["metrics"]] == ["reports/summary.json"]
    assert {"reports/metrics.json": {"cache": False}} in stage["outs"]
