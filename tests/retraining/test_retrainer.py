"""The retraining on a real store and a real registry: who may work, what is recorded, and what takes a promotion back.

What trains is in `test_loop.py`; here a training comes as far as the store lets it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pytest
import yaml
from mlflow.exceptions import MlflowException
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr

from monitoring.exporter import TwinCollector
from monitoring.fleet_queries import FleetReader
from monitoring.registry_poll import RegistryPoller
from retraining.promotion_record import Promotion
from retraining.retrain_store import RetrainStore
from retraining.retrainer import Retrainer, retraining
from retraining.trigger import RetrainHistory
from retraining.workspace import Workspace
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from tests.monitoring.store_rows import at, query, reading, write
from tests.training.small_models import GATE, TRAIN_BATTERIES, ModelFiles
from training.registry.promotion import promote, rollback
from training.registry.registration import Provenance, RegistrationReport, register_all
from training.registry.registry_store import RegistryStore

ROOT = Path(__file__).resolve().parents[2]
PARAMS: Mapping[str, Any] = {
    **yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")),
    "retrain": {"pause_s": 0.0, "longest_pause_s": 0.0},
    "rollback": {"min_outcomes": 40, "max_outcomes": 160, "watch_s": 0.0, "min_batteries": 4, "alpha": 0.01},
}


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    migrate(postgres_dsn)
    return postgres_dsn


@pytest.fixture(scope="module")
def two_releases(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Path:
    """`var` of a registry in which temperature 1 was replaced by temperature 2, both by the gate."""
    folder = tmp_path_factory.mktemp("retrain")
    var, models = folder / "var", ModelFiles(folder / "models")
    var.mkdir()
    shutil.copy(empty_registry, var / "mlflow.db")
    store = RegistryStore.open(Settings(var=var), "battery")
    for noise in (0.5, 0.1):
        models.train("temperature", noise=noise)
        register_all(store, models.folder, models.metrics, GATE, Provenance("made_up"), by="the tests")
    assert store.aliases().champions == {"temperature": 2}
    return var


@pytest.fixture
def champions(tmp_path: Path, two_releases: Path) -> RegistryStore:
    """Those two releases, for one test."""
    var = tmp_path / "var"
    var.mkdir()
    shutil.copy(two_releases / "mlflow.db", var)
    return RegistryStore.open(Settings(var=var), "battery")


@pytest.fixture
def retrainer(dsn: str, champions: RegistryStore) -> Iterator[Retrainer]:
    settings = champions.settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
    with retraining(settings, PARAMS, threading.Event()) as made:
        yield made


def drifting(dsn: str, version: str = "2", began_s: float = 0.0, domain: str = "battery") -> None:
    """What the watcher of drift writes when the temperature model's errors are out of bounds."""
    query(
        dsn,
        "INSERT INTO drift_windows (target, kind, model_name, model_version, window_start, window_end, samples, "
        "batteries, score, threshold, is_out) "
        "VALUES ('temperature', 'errors', %s, %s, %s, %s, 50, 5, 0.9, 0.5, true)",
        (f"{domain}-temperature", version, at(began_s), at(began_s + 3600)),
    )
    query(
        dsn,
        "INSERT INTO drift_status (target, kind, score, threshold, is_drifting, model_name, model_version, window_end) "
        "VALUES ('temperature', 'errors', 0.9, 0.5, true, %s, %s, %s)",
        (f"{domain}-temperature", version, at(began_s + 3600)),
    )


def retrains(dsn: str, columns: str = "outcome, error") -> list[tuple[Any, ...]]:
    return query(dsn, f"SELECT {columns} FROM retrains ORDER BY retrain_id")


def soon(ask: Callable[[], bool]) -> bool:
    """Whether it becomes true: a server notices a moment later that a session has ended."""
    deadline = time.monotonic() + 30.0
    while not ask():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# One at a time


def test_one_holds_the_lock_and_the_other_is_told_who(dsn: str) -> None:
    first, second = RetrainStore(dsn, "battery", "Ada"), RetrainStore(dsn, "battery", "Grace")
    assert first.try_lock()
    assert first.holds_lock()
    assert not second.try_lock()
    assert not second.holds_lock()
    assert (second.holder() or "").startswith("retrain by Ada on ")
    first.unlock()
    assert not first.holds_lock()
    assert second.holder() is None
    assert second.try_lock()
    second.close()
    assert soon(first.try_lock), "a session that ends gives up its lock"
    first.close()


def test_a_lock_that_was_lost_is_noticed_and_the_next_one_closes_the_record(dsn: str) -> None:
    first, second = RetrainStore(dsn, "battery", "Ada"), RetrainStore(dsn, "battery", "Grace")
    assert first.try_lock()
    first.begin("somebody asked", (), 1)
    query(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'retrain by Ada%%'")
    assert not first.holds_lock()
    assert soon(second.try_lock)
    ((_, error),) = second.abandoned()
    assert error.startswith("it ended without a word: its process on ")
    first.close()
    second.close()


def test_who_comes_second_waits_and_says_for_whom(dsn: str, retrainer: Retrainer, caplog: Any) -> None:
    drifting(dsn)
    other = RetrainStore(dsn, "battery", "Ada")
    assert other.try_lock()
    with caplog.at_level("INFO"):
        assert retrainer.look() is None
    assert "not now: retrain by Ada on " in caplog.text
    assert retrains(dsn) == []
    other.close()


# What cannot be learned


def test_a_training_that_fails_leaves_the_champion_and_says_why(dsn: str, retrainer: Retrainer) -> None:
    before = retrainer.registry.aliases()
    drifting(dsn)
    done = retrainer.look()
    assert done is not None
    assert done.error is not None
    assert "there is nothing to learn from yet" in done.error
    ((outcome, error, reason, release, run_id),) = retrains(dsn, "outcome, error, reason, release_before, run_id")
    assert (outcome, error) == ("failed", done.error)
    assert reason == "errors of temperature drift (0.9, bound 0.5)"
    assert release == before.release
    assert retrainer.registry.aliases() == before
    run = retrainer.registry.client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["drift.temperature.errors"] == "0.9"
    assert run.data.tags["retrain_reason"] == reason


def test_a_training_that_is_told_to_stop_has_not_failed(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    drifting(dsn)
    stop = threading.Event()
    with retraining(settings, {**PARAMS, "retrain": {"pause_s": 3600.0}}, stop) as retrainer:
        stop.set()
        retrainer.look()
        ((outcome, error, run_id),) = retrains(dsn, "outcome, error, run_id")
        assert (outcome, error) == ("stopped", "it was stopped")
        assert champions.client.get_run(run_id).info.status == "KILLED"
        assert retrainer.records.past() == RetrainHistory()
        retrainer.look()
    assert len(retrains(dsn)) == 2, "the next one does not wait"


def test_it_is_not_tried_again_at_once(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
    patient = {**PARAMS, "retrain": {"pause_s": 3600.0}}
    drifting(dsn)
    with retraining(settings, patient, threading.Event()) as retrainer:
        assert retrainer.look() is not None
        assert retrainer.look() is None
    assert len(retrains(dsn)) == 1
    query(dsn, "UPDATE retrains SET ended_at = ended_at - interval '1 hour'")
    with retraining(settings, patient, threading.Event()) as retrainer:
        assert retrainer.look() is None, "one that failed doubles the pause"
        query(dsn, "UPDATE retrains SET ended_at = ended_at - interval '1 hour'")
        assert retrainer.look() is not None


def test_what_does_not_drift_and_what_serves_no_longer_is_left_alone(dsn: str, retrainer: Retrainer) -> None:
    assert retrainer.look() is None
    drifting(dsn, version="1")
    assert retrainer.look() is None
    assert retrains(dsn) == []


@pytest.mark.parametrize(
    ("names", "trains"),
    [(TRAIN_BATTERIES[:4], False), (TRAIN_BATTERIES[:5], True), ((*TRAIN_BATTERIES[:3], "EV-1"), True)],
    ids=["all seen", "enough", "one is new"],
)
def test_a_fleet_that_can_spare_no_battery_for_the_gate_does_not_train_for_ever(
    names: tuple[str, ...], trains: bool, dsn: str, retrainer: Retrainer, caplog: Any
) -> None:
    write(dsn, readings=[reading(name, 0.0) for name in names])
    drifting(dsn)
    retrainer.stop.set()  # whatever begins is stopped at once
    with caplog.at_level("INFO"):
        done = retrainer.look()
    assert (done is not None) == trains
    assert ("learned from all 4 batteries there are, and of fewer than 5 none is held out" in caplog.text) != trains


def test_what_drifts_in_another_domain_is_left_alone(dsn: str, retrainer: Retrainer) -> None:
    drifting(dsn, domain="lab")
    assert retrainer.look() is None
    assert retrains(dsn) == []


@pytest.mark.slow
def test_the_command_trains_when_it_is_asked_to(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings
    done = subprocess.run(
        [sys.executable, "-m", "retraining", "--reason", "new battery model"],
        cwd=ROOT,
        env={**os.environ, "TWIN_VAR": str(settings.var), "TWIN_TELEMETRY_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing to learn from yet" in done.stderr
    assert retrains(dsn, "outcome, reason") == [("failed", "new battery model")]


# What was promoted is a promotion, however its training ended


def register(store: RegistryStore, models: ModelFiles, target: str, noise: float, **tags: str) -> RegistrationReport:
    models.train(target, noise=noise)
    provenance = Provenance("made_up", tags=tags)
    return register_all(store, models.folder, models.metrics, GATE, provenance, by="the tests", promotable=[target])


def test_a_promotion_whose_training_is_gone_is_watched_and_takes_nobody_elses_along(
    dsn: str, retrainer: Retrainer, tmp_path: Path
) -> None:
    store = retrainer.registry
    number = retrainer.records.begin("somebody asked", (), store.aliases().release)
    register(store, ModelFiles(tmp_path / "ada"), "soh", 0.1)  # meanwhile Ada promotes another target
    register(store, ModelFiles(tmp_path / "ours"), "temperature", 0.02, retrain=str(number))
    assert store.aliases().champions == {"soh": 1, "temperature": 3}
    retrainer.look()
    ((outcome, error, *release, watched, state),) = retrains(
        dsn, "outcome, error, release_before, release_after, watched, watch"
    )
    assert outcome == "promoted"
    assert "ended without a word" in error
    assert release == [3, 4]
    assert (watched, state) == ({"temperature": [3, 2]}, "watching")
    lived(dsn, worse=1.0, new="3", old="2")
    retrainer.look()
    assert watch(dsn)[0] == "rolled_back"
    assert store.aliases().champions == {"soh": 1, "temperature": 2}


@pytest.mark.parametrize("how", ["another", "by hand"])
def test_what_another_training_or_a_person_promoted_is_not_this_ones(
    how: str, dsn: str, retrainer: Retrainer, tmp_path: Path
) -> None:
    store = retrainer.registry
    number = retrainer.records.begin("somebody asked", (), 2)
    tag = str(number) if how == "by hand" else "999"
    models = ModelFiles(tmp_path / "models")
    models.train("temperature", noise=0.02)
    provenance = Provenance("made_up", tags={"retrain": tag})
    allowed = ["soh"] if how == "by hand" else ["temperature"]
    register_all(store, models.folder, models.metrics, GATE, provenance, by="the tests", promotable=allowed)
    if how == "by hand":
        promote(store, GATE, {"temperature": 3}, reason="I like it", by="Ada")
    assert store.aliases().champions == {"temperature": 3}
    retrainer.look()
    assert retrains(dsn, "outcome, watch") == [("failed", None)]


def pipeline_gives(monkeypatch: pytest.MonkeyPatch, noise: float, meanwhile: Callable[[], object]) -> None:
    """In place of minutes of `dvc repro`: a temperature model."""

    def train(self: Workspace, _var: Path, _check: Callable[[], None]) -> None:
        models = ModelFiles(self.models)
        models.train("temperature", noise=noise)
        self.reports.mkdir()
        (self.reports / "metrics.json").write_text(json.dumps(models.metrics))
        (self.reports / "folds.json").write_text("{}")
        (self.folder / "dvc.lock").write_text("")
        meanwhile()

    monkeypatch.setattr(Workspace, "train", train)


def test_a_release_is_taken_back_to_the_one_that_it_replaced(
    dsn: str, retrainer: Retrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = retrainer.registry
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    pipeline_gives(monkeypatch, 0.02, lambda: register(store, ModelFiles(tmp_path / "ada"), "soh", 0.1))
    done = retrainer.look("somebody asked")
    assert done is not None
    assert done.error is None
    assert done.promotion == Promotion(4, 3, {"temperature": (3, 2)})
    assert retrains(dsn, "outcome, release_before, release_after, watch") == [("promoted", 3, 4, "watching")]


def test_a_release_that_others_made_meanwhile_is_not_its_own(
    dsn: str, retrainer: Retrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = retrainer.registry
    client = store.client
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    alias = ("battery-temperature", "champion", "1")
    pipeline_gives(monkeypatch, 5.0, lambda: client.set_registered_model_alias(*alias))
    done = retrainer.look("somebody asked")
    assert done is not None
    assert done.promotion is None
    assert retrains(dsn, "outcome, watch") == [("not_promoted", None)]
    assert store.aliases().release == 3, "the alias that somebody moved is followed"


def test_a_store_that_is_lost_while_models_are_registered_does_not_lose_the_promotion(
    dsn: str, retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    pipeline_gives(monkeypatch, 0.02, lambda: None)
    end = RetrainStore.end

    def lost(self: RetrainStore, *values: Any, **named: Any) -> None:
        monkeypatch.setattr(RetrainStore, "end", end)
        query(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'retrain by%%'")
        end(self, *values, **named)

    monkeypatch.setattr(RetrainStore, "end", lost)
    done = retrainer.look("somebody asked")
    assert done is not None
    assert done.error is not None
    assert done.promotion == Promotion(3, 2, {"temperature": (3, 2)})
    assert retrains(dsn, "outcome, release_before, watch") == [("promoted", 2, "watching")]


def test_how_it_ended_is_recorded_once_the_registry_is_back(
    dsn: str, retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: RegistryStore) -> None:
        raise MlflowException("the registry is away")

    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    with monkeypatch.context() as patch:
        pipeline_gives(patch, 0.02, lambda: patch.setattr(RegistryStore, "aliases", away))
        done = retrainer.look("somebody asked")
        assert done is not None
        assert done.error == "MlflowException: the registry is away"
        assert retrains(dsn) == [(None, done.error)]
    retrainer.look()
    assert retrains(dsn) == [("failed", done.error)]


def test_a_promotion_that_is_recorded_late_overrides_whoever_gave_it_up(dsn: str) -> None:
    records = RetrainStore(dsn, "battery", "Ada")
    number = records.begin("a", (), 1)
    records.end(number, "failed", error="it ended without a word")
    records.end(number, "promoted", release=3, before=2, watched={"temperature": (3, 2)})
    records.end(number, "failed", error="too late")
    assert retrains(dsn, "outcome, error, release_before, watch") == [("promoted", None, 2, "watching")]
    records.close()


# The watch over a promotion


def promoted(dsn: str, store: RegistryStore) -> int:
    """The record of a training that put temperature 2 in the place of temperature 1."""
    records = RetrainStore(dsn, "battery", "the tests")
    release = store.aliases().release
    assert release is not None
    before = store.previous_release(release)
    number = records.begin("errors of temperature drift", (), before)
    store.set_challenger("temperature", 1)
    records.end(number, "promoted", release=release, watched={"temperature": (2, 1)})
    records.close()
    return number


def lived(
    dsn: str, worse: float, *, batteries: int = 8, moments: int = 10, new: str = "2", old: str = "1", since: int = 0
) -> None:
    """Truths of the same moments for champion `new` and for its shadow, with errors that are the battery's own."""
    rng = np.random.default_rng(11 + since)
    rows = []
    for number in range(batteries):
        hardness = rng.uniform(0.1, 1.0)
        for moment in range(since, since + moments):
            shared = abs(rng.normal()) * hardness
            error_now = shared * (1.0 + worse) + 0.2 * hardness * rng.normal()
            for role, version, error in (("champion", new, error_now), ("challenger", old, shared)):
                made = at(moment * 300.0)
                rows.append(
                    (f"EV-{number}", made, "temperature", role, "battery-temperature", version,
                     25.0 + error, 25.0, error, made + timedelta(seconds=300))
                )  # fmt: skip
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO prediction_outcomes (battery_id, time, target, role, model_name, model_version, value, "
            "actual, error, matured_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )
    connection.close()


def watch(dsn: str) -> tuple[str, str | None]:
    ((state, detail),) = query(dsn, "SELECT watch, watch_detail FROM retrains")
    return state, detail


def test_a_promotion_that_is_worse_than_its_shadow_is_taken_back(dsn: str, retrainer: Retrainer) -> None:
    store = retrainer.registry
    promoted(dsn, store)
    lived(dsn, worse=1.0)
    retrainer.look()
    state, detail = watch(dsn)
    assert state == "rolled_back"
    assert "of its predecessor on the same 80 outcomes of 8 batteries" in (detail or "")
    aliases = store.aliases()
    assert (aliases.champions, aliases.release, aliases.challengers) == ({"temperature": 1}, 1, {"temperature": 2})
    event = store.events()[-1]
    assert (event.kind, event.after) == ("rollback", aliases)
    assert event.reason.startswith("release 2 is worse than its predecessor: temperature 2: live error ")
    retrainer.look()
    assert store.events()[-1] == event, "once"


def test_a_promotion_that_is_better_is_watched_to_the_end_and_stays(dsn: str, retrainer: Retrainer) -> None:
    store = retrainer.registry
    promoted(dsn, store)
    lived(dsn, worse=-0.5)
    retrainer.look()
    assert watch(dsn)[0] == "watching"
    lived(dsn, worse=-0.5, since=10)
    retrainer.look()
    assert watch(dsn) == ("passed", "not worse than its predecessor over 160 outcomes")
    aliases = store.aliases()
    assert (aliases.champions, aliases.challengers) == ({"temperature": 2}, {"temperature": 2})
    assert store.events()[-1].kind == "shadow"


def test_noise_takes_nothing_back(dsn: str, retrainer: Retrainer) -> None:
    promoted(dsn, retrainer.registry)
    for since in (0, 10):
        lived(dsn, worse=0.0, since=since)
        retrainer.look()
    assert watch(dsn)[0] == "passed"
    assert retrainer.registry.aliases().champions == {"temperature": 2}


@pytest.mark.parametrize(
    "few", [{"moments": 4}, {"batteries": 3, "moments": 30}, {"old": "7"}], ids=["outcomes", "batteries", "shadow"]
)
def test_too_little_takes_nothing_back(dsn: str, retrainer: Retrainer, few: dict[str, Any]) -> None:
    promoted(dsn, retrainer.registry)
    lived(dsn, worse=1.0, **few)
    retrainer.look()
    state, detail = watch(dsn)
    assert state == "watching"
    assert ("TWIN_SHADOW" in (detail or "")) == ("old" in few)
    assert retrainer.registry.aliases().champions == {"temperature": 2}


def test_the_shadow_is_kept_while_other_models_are_registered(dsn: str, retrainer: Retrainer) -> None:
    store = retrainer.registry
    promoted(dsn, store)
    store.set_challenger("temperature", 2)  # as registering does
    retrainer.look()
    assert store.aliases().challengers == {"temperature": 1}
    event = store.events()[-1]
    assert event.kind == "shadow"
    retrainer.look()
    assert store.events()[-1] == event, "once"


def test_a_watch_of_too_few_batteries_does_not_pass(dsn: str, retrainer: Retrainer) -> None:
    promoted(dsn, retrainer.registry)
    lived(dsn, worse=-0.5, batteries=3, moments=100)
    retrainer.look()
    assert watch(dsn) == ("watching", "only 3 batteries have outcomes of both models; it is compared from 4 on")


@pytest.mark.parametrize(
    "act",
    [
        lambda store: rollback(store, reason="I know better", by="Ada"),
        lambda store: promote(store, GATE, {"temperature": 1}, reason="I know better", by="Ada", force=True),
    ],
    ids=["rollback", "promote"],
)
def test_what_somebody_else_moved_is_watched_no_longer(
    dsn: str, retrainer: Retrainer, act: Callable[[RegistryStore], object]
) -> None:
    promoted(dsn, retrainer.registry)
    lived(dsn, worse=1.0)
    act(retrainer.registry)
    release = retrainer.registry.aliases().release
    retrainer.look()
    assert watch(dsn)[0] == "superseded"
    assert retrainer.registry.aliases().release == release


def test_a_rollback_that_nobody_lived_to_write_down_is_one(
    dsn: str, retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = promoted(dsn, retrainer.registry)
    lived(dsn, worse=1.0)

    def killed(*_: Any) -> None:
        raise psycopg2.OperationalError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RetrainStore, "end_watch", killed)
        with pytest.raises(psycopg2.OperationalError):
            retrainer.look()
    assert watch(dsn)[0] == "watching"
    assert retrainer.registry.aliases().release == 1
    retrainer.look()
    state, detail = watch(dsn)
    assert state == "rolled_back"
    assert (detail or "").startswith("temperature 2: live error ")
    query(dsn, "UPDATE retrains SET ended_at = now() - interval '1 s' WHERE retrain_id = %s", (number,))
    assert retrainer.records.past().unchanged == 1


@pytest.mark.parametrize("gone", [("battery-temperature", "1"), ("battery-twin", "1")], ids=["model", "release"])
def test_a_watch_that_has_nothing_to_compare_with_holds_up_no_training(
    gone: tuple[str, str], dsn: str, retrainer: Retrainer
) -> None:
    promoted(dsn, retrainer.registry)
    lived(dsn, worse=1.0)
    retrainer.registry.client.delete_model_version(*gone)
    drifting(dsn)
    done = retrainer.look()
    assert done is not None, "the drift is answered"
    state, detail = query(dsn, "SELECT watch, watch_detail FROM retrains ORDER BY retrain_id")[0]
    assert state == "superseded"
    assert f"there is no version 1 of {gone[0]}" in detail


def test_a_watch_lasts_a_day_of_the_fleet_however_many_outcomes_there_are(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
    params = {**PARAMS, "rollback": {**PARAMS["rollback"], "watch_s": 86_400.0}}
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    promoted(dsn, champions)
    with retraining(settings, params, threading.Event()) as retrainer:
        retrainer.look()
        lived(dsn, worse=-0.5, moments=30)
        retrainer.look()
        retrainer.look()
        assert watch(dsn)[0] == "watching"
        assert query(dsn, "SELECT watch_looks FROM retrains") == [({"temperature": 159},)]
        write(dsn, readings=[reading("EV-0", 86_400.0 + n) for n in range(9)])
        retrainer.look()
        assert watch(dsn)[0] == "watching", "one clock that is ahead is not the fleet's"
        write(dsn, readings=[reading(f"EV-{n}", 86_400.0) for n in range(8)])
        retrainer.look()
        assert watch(dsn)[0] == "passed"


# What is shown


def test_the_exporter_counts_trainings_and_watches(dsn: str, tmp_path: Path) -> None:
    records = RetrainStore(dsn, "battery", "Ada")
    records.end(records.begin("a", (), 1), "failed", error="no")
    records.end(records.begin("b", (), 1), "promoted", release=2, watched={"soh": (2, 1)})
    records.end(records.begin("c", (), 2), "stopped", error="it was stopped")
    records.begin("d", (), 2)
    records.close()
    reader = FleetReader(dsn)
    registry = CollectorRegistry()
    registry.register(TwinCollector(reader, RegistryPoller(Settings(var=tmp_path))))
    shown = generate_latest(registry).decode()
    reader.close()
    for line in (
        'model_retrains_total{outcome="promoted"} 1.0',
        'model_retrains_total{outcome="not_promoted"} 0.0',
        'model_retrains_total{outcome="failed"} 1.0',
        'model_retrains_total{outcome="stopped"} 1.0',
        "model_retrain_running 1.0",
        'model_promotion_watches{state="watching"} 1.0',
        'model_promotion_watches{state="rolled_back"} 0.0',
    ):
        assert line in shown
