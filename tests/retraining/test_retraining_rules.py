"""Rules of automatic retraining without a database: when drift starts a training, when a promotion is rolled back."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from features.targets import TARGET_NAMES
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import KINDS, drift_status
from retraining.champion_comparison import PairedLoss, RollbackParams, compare
from retraining.trigger import DetectedDrift, RetrainHistory, RetrainParams, decide
from retraining.workspace import failure_message
from telemetry.errors import TwinError

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PARAMS = RetrainParams(pause_s=3600.0, longest_pause_s=14_400.0)
CHAMPIONS = {"temperature": 3, "soh": 2}
ROLLBACK = RollbackParams(min_outcomes=200, max_outcomes=3200, min_batteries=4, alpha=0.01)


def drift(target: str = "temperature", version: str = "3", window_start: datetime = NOW) -> DetectedDrift:
    return DetectedDrift(target, "errors", 0.9, 0.5, window_start, version)


def targets_to_train(
    drifts: list[DetectedDrift],
    history: RetrainHistory = RetrainHistory(),  # noqa: B008 - frozen
    now: datetime = NOW,
) -> list[str]:
    return [drift.target for drift in decide(drifts, CHAMPIONS, history, now, PARAMS).drifts]


def test_drift_of_the_champion_starts_a_training_with_a_reason() -> None:
    decision = decide([drift()], CHAMPIONS, RetrainHistory(), NOW, PARAMS)
    assert decision.drifts == (drift(),)
    assert decision.reason == "errors of temperature drift (0.9, bound 0.5)"
    assert targets_to_train([drift(), drift("soh", "2")]) == ["temperature", "soh"]


def test_no_drift_starts_no_training() -> None:
    assert decide([], CHAMPIONS, RetrainHistory(), NOW, PARAMS).reason == "no model drifts"


def test_drift_of_a_former_champion_starts_no_training() -> None:
    decision = decide([drift(version="2")], CHAMPIONS, RetrainHistory(), NOW, PARAMS)
    assert not decision.drifts
    assert "no longer the champion" in decision.reason


def test_drift_in_data_of_the_last_training_starts_no_training() -> None:
    history = RetrainHistory(ended_at=NOW - timedelta(days=9), data_until=NOW, unchanged=1)
    assert targets_to_train([drift(window_start=NOW - timedelta(seconds=1))], history) == []
    assert targets_to_train([drift(window_start=NOW)], history) == ["temperature"]


def test_pause_doubles_with_each_training_without_promotion() -> None:
    for unchanged, pause_h in ((0, 1), (1, 2), (2, 4), (3, 4), (400, 4)):
        history = RetrainHistory(ended_at=NOW, unchanged=unchanged)
        just_before, after = (NOW + timedelta(hours=pause_h, seconds=s) for s in (-1, 0))
        assert targets_to_train([drift()], history, just_before) == []
        assert targets_to_train([drift()], history, after) == ["temperature"]
        assert "pause" in decide([drift()], CHAMPIONS, history, just_before, PARAMS).reason


def trainings(rng: np.random.Generator, share_out: float, windows: int = 50) -> int:
    """Number of trainings if every window of every target and kind is out of bounds by chance alone."""
    params, history, count = DriftParams(), RetrainHistory(), 0
    streams = [(target, kind) for target in TARGET_NAMES for kind in KINDS]
    champions = dict.fromkeys(TARGET_NAMES, 1)
    newest_first: dict[tuple[str, str], list[bool]] = {stream: [] for stream in streams}
    for number in range(windows):
        start = NOW + number * timedelta(seconds=params.window_s)
        end = start + timedelta(seconds=params.window_s)
        drifting = []
        for target, kind in streams:
            newest_first[target, kind].insert(0, bool(rng.random() < share_out))
            if drift_status(newest_first[target, kind], params).is_drifting:
                drifting.append(DetectedDrift(target, kind, 0.9, 0.5, start, "1"))
        if decide(drifting, champions, history, end, PARAMS).drifts:
            count += 1
            # Training on noise yields no better model.
            history = RetrainHistory(ended_at=end, data_until=end, unchanged=history.unchanged + 1)
    return count


def test_noise_starts_at_most_one_training_in_fifty_windows() -> None:
    rng = np.random.default_rng(6)
    counts = [trainings(rng, DriftParams().false_alarms) for _ in range(100)]
    assert max(counts) <= 1
    assert min(trainings(rng, 0.9) for _ in range(3)) > 10, "persistent drift is trained on repeatedly"


@pytest.mark.parametrize(
    "invalid",
    [{"pause_s": -1.0}, {"pause_s": 60.0, "longest_pause_s": 10.0}, {"kept": 0}],
)
def test_invalid_retrain_parameter_is_named(invalid: dict[str, float]) -> None:
    with pytest.raises(TwinError, match="retrain"):
        RetrainParams.of({"retrain": invalid})


@pytest.mark.parametrize(
    "invalid", [{"min_outcomes": 0}, {"max_outcomes": 10}, {"min_batteries": 1}, {"alpha": 1.0}, {"alpha": 0.0}]
)
def test_invalid_rollback_parameter_is_named(invalid: dict[str, float]) -> None:
    with pytest.raises(TwinError, match="rollback"):
        RollbackParams.of({"rollback": invalid})


def losses(rng: np.random.Generator, batteries: int, worse: float, outcomes: int = 40) -> list[PairedLoss]:
    """Mean losses of two models; batteries differ tenfold in difficulty, models by a factor 1 + `worse` on each."""
    difficulty = rng.uniform(0.1, 1.0, batteries)
    shared = np.abs(rng.normal(size=(batteries, outcomes))) * difficulty[:, None]
    noise = 0.2 * difficulty[:, None] * rng.normal(size=(batteries, outcomes))
    new, old = (shared * (1.0 + worse) + noise).mean(axis=1), shared.mean(axis=1)
    return [PairedLoss(f"EV-{n}", outcomes, float(new[n]), float(old[n])) for n in range(batteries)]


def is_rolled_back(rng: np.random.Generator, batteries: int, worse: float) -> bool:
    """Whether any comparison after a promotion finds the new model worse; each has more outcomes."""
    counts = [ROLLBACK.min_outcomes * 2**n for n in range(ROLLBACK.max_comparisons)]
    return any(compare(losses(rng, batteries, worse, count // batteries), ROLLBACK).is_worse for count in counts)


def test_model_that_is_worse_on_every_battery_is_found_in_one_comparison() -> None:
    rng = np.random.default_rng(3)
    comparison = compare(losses(rng, 10, worse=0.3), ROLLBACK)
    assert comparison.is_worse
    assert (comparison.outcomes, comparison.batteries) == (400, 10)
    assert comparison.new > comparison.old
    assert "p = " in comparison.sentence


def test_better_and_equal_models_are_not_worse() -> None:
    rng = np.random.default_rng(4)
    assert not compare(losses(rng, 10, worse=-0.3), ROLLBACK).is_worse
    same = [PairedLoss(f"EV-{n}", 50, 0.2 + n, 0.2 + n) for n in range(8)]
    assert compare(same, ROLLBACK).p_value == 1.0


def test_false_rollback_rate_over_all_comparisons_is_at_most_alpha() -> None:
    rng = np.random.default_rng(5)
    false_rollbacks = sum(is_rolled_back(rng, 10, worse=0.0) for _ in range(500))
    assert false_rollbacks <= 10, "alpha is 1 %: 5 of 500, and 10 are hardly ever exceeded"
    assert sum(is_rolled_back(rng, 10, worse=0.3) for _ in range(50)) == 50


def test_one_bad_battery_does_not_make_the_model_worse() -> None:
    one_bad = [PairedLoss(f"EV-{n}", 50, 5.0 if n == 0 else 0.2, 0.2) for n in range(10)]
    comparison = compare(one_bad, ROLLBACK)
    assert comparison.new > 3 * comparison.old
    assert not comparison.is_worse


def test_too_few_batteries_have_p_value_one() -> None:
    certain = [PairedLoss(f"EV-{n}", 1000, 1.0, 0.1) for n in range(4)]
    assert compare(certain, ROLLBACK).is_worse
    assert compare(certain[:3], ROLLBACK).p_value == 1.0


def test_comparisons_are_made_when_outcomes_have_doubled() -> None:
    assert [ROLLBACK.next_comparison(n) for n in (None, 200, 250, 400, 1700, 3200)] == [200, 400, 500, 800, 3200, 3200]
    assert ROLLBACK.max_comparisons == 5


def test_failure_message_is_that_of_the_stage() -> None:
    dvc = "ERROR: failed to reproduce 'validate': failed to run: python -m pipelines.validate, exited with 2"
    with_message = f"Running stage 'validate':\nnone of the 5 rows read passed\n{dvc}\n"
    assert failure_message(with_message) == "none of the 5 rows read passed"
    with_traceback = f"Traceback (most recent call last):\n  File x\nKeyError: 'voltage'\n{dvc}\n"
    assert failure_message(with_traceback) == "KeyError: 'voltage'"
    assert failure_message(dvc) == dvc
    assert failure_message("") == "dvc repro failed without output"


KILL_ON_PARENT_EXIT = [sys.executable, "-m", "retraining.kill_on_parent_exit"]


def test_command_is_killed_when_the_parent_is_killed() -> None:
    parent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)"
    )
    stage = ["sh", "-c", "echo started; sleep 600 & wait"]
    with subprocess.Popen(
        [sys.executable, "-c", parent, *KILL_ON_PARENT_EXIT, *stage], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.kill()
        # The pipe is closed when no process is left that could write to it.
        assert process.communicate(timeout=60.0) == (b"", None)


@pytest.mark.parametrize(("stage", "code"), [("exit 3", 3), ("trap 'exit 7' TERM; kill -TERM 0; sleep 1", 7)])
def test_exit_code_of_the_command_is_returned(stage: str, code: int) -> None:
    with subprocess.Popen(
        [*KILL_ON_PARENT_EXIT, "sh", "-c", stage], cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.wait(60.0) == code
