"""Promotion gate: verdicts on synthetic errors per battery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import TwinError
from training.gate import BatteryError, GateScore, GateThresholds, decide

THRESHOLDS = GateThresholds({"soh": 0.02}, tolerance=0.0)


def score(errors: dict[str, float], **more: object) -> GateScore:
    """Score from mean errors by battery, over ten rows each."""
    by_battery = {name: BatteryError(10 * error, 10) for name, error in errors.items()}
    return GateScore("soh", "version 1", by_battery, **more)  # type: ignore[arg-type]


def challenger(*errors: float, baseline: float = 1.0) -> GateScore:
    by_battery = {f"B{number}": error for number, error in enumerate(errors)}
    return score(by_battery, baselines={"mean": 2 * baseline, "cycle_count": baseline})


def test_first_model_that_beats_its_baseline_passes() -> None:
    verdict = decide(challenger(0.5), None, THRESHOLDS)
    assert verdict.passed
    assert "skill 0.500 against cycle_count" in verdict.reasons[0]


@pytest.mark.parametrize("error", [0.98, 1.0, 1.5, float("nan")])
def test_model_without_the_required_skill_fails(error: float) -> None:
    verdict = decide(challenger(error), None, THRESHOLDS)
    assert not verdict.passed
    assert "not above the required 0.02" in verdict.reasons[0]


def test_model_not_worse_than_the_champion_passes() -> None:
    assert decide(challenger(0.4, 0.6), score({"B0": 0.5, "B1": 0.5}), THRESHOLDS).passed


def test_model_worse_than_the_champion_fails() -> None:
    verdict = decide(challenger(0.5, 0.51), score({"B0": 0.5, "B1": 0.5}), THRESHOLDS)
    assert not verdict.passed
    assert "worse than the champion, version 1, error 0.505 against 0.5 on 2 batteries" in verdict.reasons[1]


def test_model_worse_within_the_tolerance_passes() -> None:
    tolerant = GateThresholds({"soh": 0.02}, tolerance=0.02)
    assert decide(challenger(0.5, 0.51), score({"B0": 0.5, "B1": 0.5}), tolerant).passed


def test_training_batteries_of_the_champion_are_excluded() -> None:
    champion = score({"B0": 0.0, "B1": 0.6}, trained_on=frozenset({"B0"}))
    verdict = decide(challenger(0.4, 0.5), champion, THRESHOLDS)
    assert verdict.passed
    assert "on 1 battery, 1 excluded because it was trained on them" in verdict.reasons[1]


def test_model_fails_if_the_champion_was_trained_on_all_gate_batteries() -> None:
    verdict = decide(challenger(0.1), score({"B0": 0.6}, trained_on=frozenset({"B0"})), THRESHOLDS)
    assert not verdict.passed
    assert "trained on every gate battery" in verdict.reasons[1]


def test_baselines_decide_if_the_champion_cannot_be_run() -> None:
    champion = score({}, unscored="it has state version 1, the rows have 2")
    verdict = decide(challenger(0.5), champion, THRESHOLDS)
    assert verdict.passed
    assert "state version 1" in verdict.reasons[1]
    assert not decide(challenger(1.0), champion, THRESHOLDS).passed


@pytest.mark.parametrize(
    "empty", [score({}, baselines={"mean": 1.0}), score({"B0": 0.1}), challenger(0.0, baseline=0.0)]
)
def test_model_without_gate_rows_or_a_baseline_to_beat_fails(empty: GateScore) -> None:
    assert not decide(empty, None, THRESHOLDS).passed


def test_missing_threshold_is_named() -> None:
    with pytest.raises(TwinError, match=r"gate\.min_skill\.soh"):
        decide(challenger(0.1), None, GateThresholds({}, 0.0))
    with pytest.raises(TwinError, match=r"gate\.tolerance"):
        GateThresholds.from_params({"min_skill": {"soh": 0.1}})


def test_a_target_without_its_own_threshold_has_the_default() -> None:
    thresholds = GateThresholds({"default": 0.3, "rul": 0.1}, 0.0)
    assert (thresholds.skill_needed("soh"), thresholds.skill_needed("rul")) == (0.3, 0.1)


errors = st.lists(st.floats(0.01, 2.0), min_size=2, max_size=2)


@given(errors, errors, st.floats(0.001, 0.5))
def test_smaller_error_never_turns_a_pass_into_a_failure(
    own: list[float], other: list[float], reduction: float
) -> None:
    champion = score({"B0": other[0], "B1": other[1]})
    if decide(challenger(*own), champion, THRESHOLDS).passed:
        assert decide(challenger(*(error * (1 - reduction) for error in own)), champion, THRESHOLDS).passed


@given(errors)
def test_champion_is_not_worse_than_itself(own: list[float]) -> None:
    champion = challenger(*own)
    assert decide(champion, champion, THRESHOLDS).passed == decide(champion, None, THRESHOLDS).passed
