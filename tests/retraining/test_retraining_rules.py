"""When a drift starts a training, and when a promotion is taken back: the rules, without a database."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from features.targets import TARGET_NAMES
from monitoring.drift.drift_params import DriftParams
from monitoring.drift.drift_store import KINDS
from monitoring.drift.status import rule
from retraining.champion_comparison import PairedLoss, RollbackParams, compare
from retraining.trigger import DetectedDrift, RetrainHistory, RetrainParams, decide
from retraining.workspace import failure_message
from telemetry.errors import TwinError

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PARAMS = RetrainParams(pause_s=3600.0, longest_pause_s=14_400.0)
CHAMPIONS = {"temperature": 3, "soh": 2}
ROLLBACK = RollbackParams(min_outcomes=200, max_outcomes=3200, min_batteries=4, alpha=0.01)


def drift(target: str = "temperature", version: str = "3", began: datetime = NOW) -> DetectedDrift:
    return DetectedDrift(target, "errors", 0.9, 0.5, began, version)


def targets(drifts: list[DetectedDrift], past: RetrainHistory = RetrainHistory(), now: datetime = NOW) -> list[str]:  # noqa: B008 - frozen
    return [one.target for one in decide(drifts, CHAMPIONS, past, now, PARAMS).drifts]


def test_drift_of_the_champion_starts_a_training_and_says_why() -> None:
    decision = decide([drift()], CHAMPIONS, RetrainHistory(), NOW, PARAMS)
    assert decision.drifts == (drift(),)
    assert decision.reason == "errors of temperature drift (0.9, bound 0.5)"
    assert targets([drift(), drift("soh", "2")]) == ["temperature", "soh"]


def test_nothing_that_drifts_starts_nothing() -> None:
    assert decide([], CHAMPIONS, RetrainHistory(), NOW, PARAMS).reason == "nothing drifts"


def test_a_model_that_serves_no_longer_starts_nothing() -> None:
    decision = decide([drift(version="2")], CHAMPIONS, RetrainHistory(), NOW, PARAMS)
    assert not decision.drifts
    assert "serves no longer" in decision.reason


def test_drift_that_the_last_training_knew_starts_no_other() -> None:
    past = RetrainHistory(ended_at=NOW - timedelta(days=9), data_until=NOW, unchanged=1)
    assert targets([drift(began=NOW - timedelta(seconds=1))], past) == []
    assert targets([drift(began=NOW)], past) == ["temperature"]


def test_a_pause_is_kept_and_grows_while_trainings_change_nothing() -> None:
    for unchanged, pause_h in ((0, 1), (1, 2), (2, 4), (3, 4), (400, 4)):
        past = RetrainHistory(ended_at=NOW, unchanged=unchanged)
        just_before, after = (NOW + timedelta(hours=pause_h, seconds=s) for s in (-1, 0))
        assert targets([drift()], past, just_before) == []
        assert targets([drift()], past, after) == ["temperature"]
        assert "not before" in decide([drift()], CHAMPIONS, past, just_before, PARAMS).reason


def trainings(rng: np.random.Generator, share_out: float, windows: int = 50) -> int:
    """How often a watch over every target and kind trains, where each window is out of bounds by chance alone."""
    params, past, count = DriftParams(), RetrainHistory(), 0
    streams = [(target, kind) for target in TARGET_NAMES for kind in KINDS]
    champions = dict.fromkeys(TARGET_NAMES, 1)
    newest_first: dict[tuple[str, str], list[bool]] = {stream: [] for stream in streams}
    for number in range(windows):
        began = NOW + number * timedelta(seconds=params.window_s)
        ended = began + timedelta(seconds=params.window_s)
        drifting = []
        for target, kind in streams:
            newest_first[target, kind].insert(0, bool(rng.random() < share_out))
            if rule(newest_first[target, kind], params).is_drifting:
                drifting.append(DetectedDrift(target, kind, 0.9, 0.5, began, "1"))
        if decide(drifting, champions, past, ended, PARAMS).drifts:
            count += 1
            # On noise there is nothing better to learn.
            past = RetrainHistory(ended_at=ended, data_until=ended, unchanged=past.unchanged + 1)
    return count


def test_noise_alone_trains_at_most_once_in_fifty_windows() -> None:
    rng = np.random.default_rng(6)
    counts = [trainings(rng, DriftParams().false_alarms) for _ in range(100)]
    assert max(counts) <= 1
    assert min(trainings(rng, 0.9) for _ in range(3)) > 10, "what really drifts, and stays, is tried again and again"


@pytest.mark.parametrize(
    "wrong",
    [{"pause_s": -1.0}, {"pause_s": 60.0, "longest_pause_s": 10.0}, {"kept": 0}],
)
def test_a_parameter_that_cannot_be_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(TwinError, match="retrain"):
        RetrainParams(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"min_outcomes": 0}, {"max_outcomes": 10}, {"min_batteries": 1}, {"alpha": 1.0}, {"alpha": 0.0}]
)
def test_a_parameter_of_the_rollback_that_cannot_be_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(TwinError, match="rollback"):
        RollbackParams(**wrong)  # type: ignore[arg-type]


def losses(rng: np.random.Generator, batteries: int, worse: float, outcomes: int = 40) -> list[PairedLoss]:
    """Mean losses of two models; batteries differ tenfold in how hard they are, models by `worse` on each of them."""
    hardness = rng.uniform(0.1, 1.0, batteries)
    shared = np.abs(rng.normal(size=(batteries, outcomes))) * hardness[:, None]
    noise = 0.2 * hardness[:, None] * rng.normal(size=(batteries, outcomes))
    new, old = (shared * (1.0 + worse) + noise).mean(axis=1), shared.mean(axis=1)
    return [PairedLoss(f"EV-{n}", outcomes, float(new[n]), float(old[n])) for n in range(batteries)]


def looks(rng: np.random.Generator, batteries: int, worse: float) -> bool:
    """Whether any look of a whole watch would take the promotion back; each sees more outcomes."""
    counts = [ROLLBACK.min_outcomes * 2**n for n in range(ROLLBACK.looks)]
    return any(compare(losses(rng, batteries, worse, count // batteries), ROLLBACK).is_worse for count in counts)


def test_a_model_that_is_worse_everywhere_is_found_at_the_first_look() -> None:
    rng = np.random.default_rng(3)
    found = compare(losses(rng, 10, worse=0.3), ROLLBACK)
    assert found.is_worse
    assert (found.outcomes, found.batteries) == (400, 10)
    assert found.new > found.old
    assert "p = " in found.sentence


def test_a_better_model_stays_and_so_does_an_equal_one() -> None:
    rng = np.random.default_rng(4)
    assert not compare(losses(rng, 10, worse=-0.3), ROLLBACK).is_worse
    same = [PairedLoss(f"EV-{n}", 50, 0.2 + n, 0.2 + n) for n in range(8)]
    assert compare(same, ROLLBACK).p_value == 1.0


def test_noise_alone_takes_hardly_anything_back_over_a_whole_watch() -> None:
    rng = np.random.default_rng(5)
    taken_back = sum(looks(rng, 10, worse=0.0) for _ in range(500))
    assert taken_back <= 10, "1 % is promised: 5 of 500, and 10 are hardly ever exceeded"
    assert sum(looks(rng, 10, worse=0.3) for _ in range(50)) == 50


def test_one_battery_that_does_badly_is_not_the_fleet() -> None:
    one_bad = [PairedLoss(f"EV-{n}", 50, 5.0 if n == 0 else 0.2, 0.2) for n in range(10)]
    found = compare(one_bad, ROLLBACK)
    assert found.new > 3 * found.old
    assert not found.is_worse


def test_few_batteries_say_nothing() -> None:
    certain = [PairedLoss(f"EV-{n}", 1000, 1.0, 0.1) for n in range(4)]
    assert compare(certain, ROLLBACK).is_worse
    assert compare(certain[:3], ROLLBACK).p_value == 1.0


def test_looks_are_made_when_the_outcomes_have_doubled() -> None:
    assert [ROLLBACK.next_comparison(n) for n in (None, 200, 250, 400, 1700, 3200)] == [200, 400, 500, 800, 3200, 3200]
    assert ROLLBACK.looks == 5


def test_why_a_training_failed_is_the_words_of_its_stage() -> None:
    dvc = "ERROR: failed to reproduce 'validate': failed to run: python -m pipelines.validate, exited with 2"
    theirs = f"Running stage 'validate':\nnone of the 5 rows read passed\n{dvc}\n"
    assert failure_message(theirs) == "none of the 5 rows read passed"
    ours = f"Traceback (most recent call last):\n  File x\nKeyError: 'voltage'\n{dvc}\n"
    assert failure_message(ours) == "KeyError: 'voltage'"
    assert failure_message(dvc) == dvc
    assert failure_message("") == "dvc repro failed without a word"


TETHERED = [sys.executable, "-m", "retraining.kill_on_parent_exit"]


def test_what_a_killed_training_has_started_ends_with_it() -> None:
    starter = (
        "import subprocess, sys, time\n"
        "subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)"
    )
    stage = ["sh", "-c", "echo began; sleep 600 & wait"]
    with subprocess.Popen(
        [sys.executable, "-c", starter, *TETHERED, *stage], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"began\n"
        process.kill()
        # The pipe ends when nobody is left who could write to it.
        assert process.communicate(timeout=60.0) == (b"", None)


@pytest.mark.parametrize(("stage", "code"), [("exit 3", 3), ("trap 'exit 7' TERM; kill -TERM 0; sleep 1", 7)])
def test_what_ends_by_itself_says_how(stage: str, code: int) -> None:
    with subprocess.Popen(
        [*TETHERED, "sh", "-c", stage], cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.wait(60.0) == code
