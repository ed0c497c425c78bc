"""Who may become champion, on made-up errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import TwinError
from training.gate import BatteryError, GateScore, GateThresholds, decide

THRESHOLDS = GateThresholds({"soh": 0.02}, tolerance=0.0)


def score(errors: dict[str, float], **more: object) -> GateScore:
    """Mean error by battery, over ten rows each."""
    by_battery = {name: BatteryError(10 * error, 10) for name, error in errors.items()}
    return GateScore("soh", "version 1", by_battery, **more)  # type: ignore[arg-type]


def challenger(*errors: float, baseline: float = 1.0) -> GateScore:
    by_battery = {f"B{number}": error for number, error in enumerate(errors)}
    return score(by_battery, baselines={"mean": 2 * baseline, "cycle_count": baseline})


def test_first_model_passes_on_its_baseline() -> None:
    verdict = decide(challenger(0.5), None, THRESHOLDS)
    assert verdict.passed
    assert "skill 0.500 against cycle_count" in verdict.reasons[0]


@pytest.mark.parametrize("error", [0.98, 1.0, 1.5, float("nan")])
def test_no_better_than_its_best_baseline_stays_challenger(error: float) -> None:
    verdict = decide(challenger(error), None, THRESHOLDS)
    assert not verdict.passed
    assert "not above the 0.02" in verdict.reasons[0]


def test_not_worse_than_the_champion_passes() -> None:
    assert decide(challenger(0.4, 0.6), score({"B0": 0.5, "B1": 0.5}), THRESHOLDS).passed


def test_worse_than_the_champion_stays_challenger() -> None:
    verdict = decide(challenger(0.5, 0.51), score({"B0": 0.5, "B1": 0.5}), THRESHOLDS)
    assert not verdict.passed
    assert "worse than the champion, version 1, error 0.505 to 0.5 on 2 batteries" in verdict.reasons[1]


def test_tolerance_lets_a_little_worse_pass() -> None:
    tolerant = GateThresholds({"soh": 0.02}, tolerance=0.02)
    assert decide(challenger(0.5, 0.51), score({"B0": 0.5, "B1": 0.5}), tolerant).passed


def test_batteries_that_the_champion_was_trained_on_do_not_count() -> None:
    champion = score({"B0": 0.0, "B1": 0.6}, trained_on=frozenset({"B0"}))
    verdict = decide(challenger(0.4, 0.5), champion, THRESHOLDS)
    assert verdict.passed
    assert "on 1 battery, 1 left out that it was trained on" in verdict.reasons[1]


def test_without_a_battery_new_to_the_champion_it_stays_challenger() -> None:
    verdict = decide(challenger(0.1), score({"B0": 0.6}, trained_on=frozenset({"B0"})), THRESHOLDS)
    assert not verdict.passed
    assert "trained on every gate battery" in verdict.reasons[1]


def test_a_champion_that_cannot_be_run_leaves_the_baselines_to_decide() -> None:
    champion = score({}, unscored="it was fitted on fold 1, the rows are of fold 2")
    verdict = decide(challenger(0.5), champion, THRESHOLDS)
    assert verdict.passed
    assert "fold 1" in verdict.reasons[1]
    assert not decide(challenger(1.0), champion, THRESHOLDS).passed


@pytest.mark.parametrize(
    "nothing", [score({}, baselines={"mean": 1.0}), score({"B0": 0.1}), challenger(0.0, baseline=0.0)]
)
def test_without_rows_or_a_baseline_to_beat_nothing_passes(nothing: GateScore) -> None:
    assert not decide(nothing, None, THRESHOLDS).passed


def test_missing_threshold_is_named() -> None:
    with pytest.raises(TwinError, match=r"gate\.min_skill\.soh"):
        decide(challenger(0.1), None, GateThresholds({}, 0.0))
    with pytest.raises(TwinError, match=r"gate\.tolerance"):
        GateThresholds.from_params({"min_skill": {"soh": 0.1}})


errors = st.lists(st.floats(0.01, 2.0), min_size=2, max_size=2)


@given(errors, errors, st.floats(0.001, 0.5))
def test_a_smaller_error_never_turns_a_pass_into_a_refusal(mine: list[float], theirs: list[float], less: float) -> None:
    champion = score({"B0": theirs[0], "B1": theirs[1]})
    if decide(challenger(*mine), champion, THRESHOLDS).passed:
        assert decide(challenger(*(error * (1 - less) for error in mine)), champion, THRESHOLDS).passed


@given(errors)
def test_a_champion_is_not_worse_than_itself(mine: list[float]) -> None:
    itself = challenger(*mine)
    assert decide(itself, itself, THRESHOLDS).passed == decide(itself, None, THRESHOLDS).passed
