"""Promotion gate: verdicts on synthetic errors per battery."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import TwinError
from training.gate import BatteryError, GateScore, GateThresholds, decide, upper_bound

THRESHOLDS = GateThresholds(min_skill={"soh": 0.02})
SIX = (0.40, 0.45, 0.50, 0.55, 0.60, 0.65)


def score(errors: dict[str, float], **more: object) -> GateScore:
    """Score from mean errors by battery, over ten rows each."""
    by_battery = {name: BatteryError(10 * error, 10) for name, error in errors.items()}
    return GateScore("soh", "version 1", by_battery, **more)  # type: ignore[arg-type]


def named(errors: list[float] | tuple[float, ...]) -> dict[str, float]:
    return {f"B{number}": error for number, error in enumerate(errors)}


def challenger(*errors: float, baseline: float = 1.0) -> GateScore:
    return score(named(errors), baselines={"mean": 2 * baseline, "cycle_count": baseline})


def champion(*errors: float, **more: object) -> GateScore:
    return score(named(errors), **more)


def test_first_model_that_beats_its_baseline_passes() -> None:
    verdict = decide(challenger(0.5), None, THRESHOLDS)
    assert verdict.passed
    assert "skill 0.500 against cycle_count" in verdict.reasons[0]


@pytest.mark.parametrize("error", [0.98, 1.0, 1.5, float("nan")])
def test_model_without_the_required_skill_fails(error: float) -> None:
    verdict = decide(challenger(error), None, THRESHOLDS)
    assert verdict.outcome == "failed"
    assert "not above the required 0.02" in verdict.reasons[0]


def test_clearly_better_model_passes() -> None:
    verdict = decide(challenger(*(0.8 * error for error in SIX)), champion(*SIX), THRESHOLDS)
    assert verdict.passed
    assert (
        "better than the champion, version 1, error 0.42 against 0.525 on 6 gate batteries, upper 90 % bound of the "
        "difference -0.0" in verdict.reasons[1]
    )


def test_model_that_is_better_on_average_by_chance_fails() -> None:
    """Better on one battery of six, as good or slightly worse on the others."""
    lucky = challenger(SIX[0] - 0.1, *(error + 0.01 for error in SIX[1:]))
    assert lucky.error() < champion(*SIX).error()
    verdict = decide(lucky, champion(*SIX), THRESHOLDS)
    assert verdict.outcome == "failed"
    assert verdict.reasons[1].startswith("not better than the champion, version 1, error 0.5167 against 0.525")


def test_worse_model_fails() -> None:
    assert decide(challenger(*(1.1 * error for error in SIX)), champion(*SIX), THRESHOLDS).outcome == "failed"


@pytest.mark.parametrize("batteries", range(1, 7))
def test_comparison_on_fewer_than_five_batteries_is_undecided(batteries: int) -> None:
    few = SIX[:batteries]
    verdict = decide(challenger(*(0.5 * error for error in few)), champion(*few), THRESHOLDS)
    assert verdict.outcome == ("passed" if batteries >= 5 else "undecided")
    if batteries == 4:
        assert verdict.reasons[1] == (
            "not comparable with the champion, version 1, on 4 gate batteries: "
            "at least 5 are needed (gate.min_batteries)"
        )
        assert verdict.sentence.startswith("is undecided by the gate: skill")


def test_training_batteries_of_the_champion_are_excluded() -> None:
    trained = champion(0.0, *SIX, trained_on=frozenset({"B0"}))
    verdict = decide(challenger(0.9, *(0.5 * error for error in SIX)), trained, THRESHOLDS)
    assert verdict.passed
    assert "on 6 gate batteries, 1 excluded because it was trained on them" in verdict.reasons[1]


def test_comparison_is_undecided_if_the_champion_was_trained_on_all_gate_batteries() -> None:
    verdict = decide(challenger(*SIX), champion(*SIX, trained_on=frozenset(named(SIX))), THRESHOLDS)
    assert verdict.outcome == "undecided"
    assert "on 0 gate batteries, 6 excluded because it was trained on them" in verdict.reasons[1]


def test_baselines_decide_if_the_champion_cannot_be_run() -> None:
    other = score({}, unscored="its target has another definition")
    verdict = decide(challenger(0.5), other, THRESHOLDS)
    assert verdict.passed
    assert "another definition" in verdict.reasons[1]
    assert not decide(challenger(1.0), other, THRESHOLDS).passed


@pytest.mark.parametrize(
    "empty", [score({}, baselines={"mean": 1.0}), score({"B0": 0.1}), challenger(0.0, baseline=0.0)]
)
def test_model_without_gate_rows_or_a_baseline_to_beat_fails(empty: GateScore) -> None:
    assert not decide(empty, None, THRESHOLDS).passed


def test_missing_and_invalid_thresholds_are_named() -> None:
    with pytest.raises(TwinError, match=r"gate\.min_skill\.soh"):
        decide(challenger(0.1), None, GateThresholds(min_skill={}))
    for section, message in (
        ({"min_skill": {"soh": 0.1}, "tolerance": 0.0}, r"gate\.tolerance is not a parameter"),
        ({"confidence": 0.9}, r"gate\.min_skill is missing; add it"),
        ({"min_skill": {}, "confidence": 1.0}, r"gate\.confidence is 1\.0: it should be less than 1"),
        ({"min_skill": {}, "min_batteries": 1}, r"gate\.min_batteries is 1: it should be greater than or equal to 2"),
    ):
        with pytest.raises(TwinError, match=message):
            GateThresholds.of({"gate": section})


def test_a_target_without_its_own_threshold_has_the_default() -> None:
    thresholds = GateThresholds(min_skill={"default": 0.3, "rul": 0.1})
    assert (thresholds.skill_needed("soh"), thresholds.skill_needed("rul")) == (0.3, 0.1)


errors = st.lists(st.floats(0.01, 0.9), min_size=5, max_size=9)


@given(errors)
def test_model_is_not_better_than_itself(own: list[float]) -> None:
    same = challenger(*own)
    assert decide(same, None, THRESHOLDS).passed
    assert decide(same, champion(*own), THRESHOLDS).outcome == "failed"


@given(errors, st.integers(0, 2**31), st.floats(0.8, 1.2))
def test_verdict_is_repeatable_and_independent_of_the_order_of_batteries(
    own: list[float], seed: int, factor: float
) -> None:
    rng = np.random.default_rng(seed)
    other = [error * factor * rng.uniform(0.8, 1.2) for error in own]
    names = rng.permutation(len(own)).tolist()
    first = decide(challenger(*own), champion(*other), THRESHOLDS)
    assert first == decide(challenger(*own), champion(*other), THRESHOLDS)
    shuffled = (
        score({f"C{name}": errors[name] for name in names}, baselines={"cycle_count": 1.0, "mean": 2.0})
        for errors in (own, other)
    )
    new, old = shuffled
    assert decide(new, old, THRESHOLDS).outcome == first.outcome


@given(errors, errors, st.floats(0.001, 0.5))
def test_smaller_error_never_turns_a_pass_into_a_failure(
    own: list[float], other: list[float], reduction: float
) -> None:
    size = min(len(own), len(other))
    old = champion(*other[:size])
    if decide(challenger(*own[:size]), old, THRESHOLDS).passed:
        smaller = challenger(*(error * (1 - reduction) for error in own[:size]))
        assert decide(smaller, old, THRESHOLDS).passed


def test_bound_holds_in_about_nine_of_ten_samples() -> None:
    """Equally good models: the bound lies below 0 in about a tenth of the samples, not in half of them."""
    rng = np.random.default_rng(3)
    rows = np.full(20, 50)
    false = sum(upper_bound(rng.normal(size=20), rows, 0.9) < 0.0 for _ in range(400)) / 400
    assert 0.07 < false < 0.18


def test_battery_with_more_rows_has_more_weight() -> None:
    difference, rows = np.array([-1.0, -1.0, -1.0, -1.0, 90.0]), np.array([10, 10, 10, 10, 100])
    assert upper_bound(difference, rows, 0.5) > 0.0
    assert upper_bound(np.where(difference > 0, 0.1, difference), rows, 0.5) < 0.0
