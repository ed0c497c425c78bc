"""Automatic retraining on a real store and registry: locking, training records, promotion monitoring and rollback.

The pipeline is replaced or fails early here; a complete retraining runs in `tests/benchmarks/test_loop.py`.
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
from retraining.retrainer import Retrainer, open_retrainer
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
    with open_retrainer(settings, PARAMS, threading.Event()) as opened:
        yield opened


def write_drift(dsn: str, version: str = "2", domain: str = "battery") -> None:
    """Rows of the drift monitor for a temperature model whose errors are out of bounds."""
    query(
        dsn,
        "INSERT INTO drift_windows (target, kind, model_name, model_version, window_start, window_end, samples, "
        "batteries, score, threshold, is_out) "
        "VALUES ('temperature', 'errors', %s, %s, %s, %s, 50, 5, 0.9, 0.5, true)",
        (f"{domain}-temperature", version, at(0.0), at(3600.0)),
    )
    query(
        dsn,
        "INSERT INTO drift_status (target, kind, score, threshold, is_drifting, model_name, model_version, window_end) "
        "VALUES ('temperature', 'errors', 0.9, 0.5, true, %s, %s, %s)",
        (f"{domain}-temperature", version, at(3600.0)),
    )


def retrains(dsn: str, columns: str = "outcome, error") -> list[tuple[Any, ...]]:
    return query(dsn, f"SELECT {columns} FROM retrains ORDER BY retrain_id")


def becomes_true(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within 30 s: a server notices the end of a connection with a delay."""
    deadline = time.monotonic() + 30.0
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# Advisory lock


def test_lock_is_exclusive_and_its_holder_is_named(dsn: str) -> None:
    first, second = RetrainStore(dsn, "battery", "Ada"), RetrainStore(dsn, "battery", "Grace")
    assert first.try_lock()
    assert first.holds_lock()
    assert not second.try_lock()
    assert not second.holds_lock()
    assert (second.lock_holder() or "").startswith("retrain by Ada on ")
    first.unlock()
    assert not first.holds_lock()
    assert second.lock_holder() is None
    assert second.try_lock()
    second.close()
    assert becomes_true(first.try_lock), "a closed connection releases its lock"
    first.close()


def test_lost_lock_is_detected_and_its_record_is_abandoned(dsn: str) -> None:
    first, second = RetrainStore(dsn, "battery", "Ada"), RetrainStore(dsn, "battery", "Grace")
    assert first.try_lock()
    first.start("manual", (), 1)
    query(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'retrain by Ada%%'")
    assert not first.holds_lock()
    assert becomes_true(second.try_lock)
    ((_, error),) = second.abandoned()
    assert error.startswith("it ended without a result: its process on ")
    first.close()
    second.close()


def test_second_retrainer_waits_and_logs_the_lock_holder(dsn: str, retrainer: Retrainer, caplog: Any) -> None:
    write_drift(dsn)
    other = RetrainStore(dsn, "battery", "Ada")
    assert other.try_lock()
    with caplog.at_level("INFO"):
        assert retrainer.run_once() is None
    assert "waiting: retrain by Ada on " in caplog.text
    assert retrains(dsn) == []
    other.close()


# Trainings that fail or do not start


def test_failed_training_keeps_the_champion_and_records_the_error(dsn: str, retrainer: Retrainer) -> None:
    before = retrainer.registry.aliases()
    write_drift(dsn)
    done = retrainer.run_once()
    assert done is not None
    assert done.error is not None
    assert "there is nothing to copy yet" in done.error
    ((outcome, error, reason, release, run_id),) = retrains(dsn, "outcome, error, reason, release_before, run_id")
    assert (outcome, error) == ("failed", done.error)
    assert reason == "errors of temperature drift (0.9, bound 0.5)"
    assert release == before.release
    assert retrainer.registry.aliases() == before
    run = retrainer.registry.client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["drift.temperature.errors"] == "0.9"
    assert run.data.tags["retrain_reason"] == reason


def test_stopped_training_is_not_recorded_as_failed(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    write_drift(dsn)
    stop = threading.Event()
    with open_retrainer(settings, {**PARAMS, "retrain": {"pause_s": 3600.0}}, stop) as retrainer:
        stop.set()
        retrainer.run_once()
        ((outcome, error, run_id),) = retrains(dsn, "outcome, error, run_id")
        assert (outcome, error) == ("stopped", "it was stopped")
        assert champions.client.get_run(run_id).info.status == "KILLED"
        assert retrainer.records.history() == RetrainHistory()
        retrainer.run_once()
    assert len(retrains(dsn)) == 2, "a stopped training causes no pause"


def test_pause_after_a_failed_training(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
    with_pause = {**PARAMS, "retrain": {"pause_s": 3600.0}}
    write_drift(dsn)
    with open_retrainer(settings, with_pause, threading.Event()) as retrainer:
        assert retrainer.run_once() is not None
        assert retrainer.run_once() is None
    assert len(retrains(dsn)) == 1
    query(dsn, "UPDATE retrains SET ended_at = ended_at - interval '1 hour'")
    with open_retrainer(settings, with_pause, threading.Event()) as retrainer:
        assert retrainer.run_once() is None, "a failed training doubles the pause"
        query(dsn, "UPDATE retrains SET ended_at = ended_at - interval '1 hour'")
        assert retrainer.run_once() is not None


def test_no_drift_and_drift_of_a_former_champion_start_no_training(dsn: str, retrainer: Retrainer) -> None:
    assert retrainer.run_once() is None
    write_drift(dsn, version="1")
    assert retrainer.run_once() is None
    assert retrains(dsn) == []


@pytest.mark.parametrize(
    ("names", "trains"),
    [(TRAIN_BATTERIES[:4], False), (TRAIN_BATTERIES[:5], True), ((*TRAIN_BATTERIES[:3], "EV-1"), True)],
    ids=["all seen", "enough", "one is new"],
)
def test_drift_does_not_train_without_a_battery_to_hold_out_for_the_gate(
    names: tuple[str, ...], trains: bool, dsn: str, retrainer: Retrainer, caplog: Any
) -> None:
    write(dsn, readings=[reading(name, 0.0) for name in names])
    write_drift(dsn)
    retrainer.stop.set()  # a training is stopped as soon as it starts
    with caplog.at_level("INFO"):
        done = retrainer.run_once()
    assert (done is not None) == trains
    assert ("trained on all 4 batteries, and with fewer than 5 none is held out" in caplog.text) != trains


def test_drift_in_another_model_namespace_is_ignored(dsn: str, retrainer: Retrainer) -> None:
    write_drift(dsn, domain="lab")
    assert retrainer.run_once() is None
    assert retrains(dsn) == []


@pytest.mark.slow
def test_command_trains_once_for_a_given_reason(dsn: str, champions: RegistryStore) -> None:
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
    assert "nothing to copy yet" in done.stderr
    assert retrains(dsn, "outcome, reason") == [("failed", "new battery model")]


# Promotions of interrupted trainings


def register(store: RegistryStore, models: ModelFiles, target: str, noise: float, **tags: str) -> RegistrationReport:
    models.train(target, noise=noise)
    provenance = Provenance("made_up", tags=tags)
    return register_all(store, models.folder, models.metrics, GATE, provenance, by="the tests", promotable=[target])


def test_promotion_of_a_killed_training_is_monitored_without_rolling_back_others(
    dsn: str, retrainer: Retrainer, tmp_path: Path
) -> None:
    store = retrainer.registry
    number = retrainer.records.start("manual", (), store.aliases().release)
    register(store, ModelFiles(tmp_path / "ada"), "soh", 0.1)  # meanwhile Ada promotes another target
    register(store, ModelFiles(tmp_path / "ours"), "temperature", 0.02, retrain=str(number))
    assert store.aliases().champions == {"soh": 1, "temperature": 3}
    retrainer.run_once()
    ((outcome, error, *release, watched, state),) = retrains(
        dsn, "outcome, error, release_before, release_after, watched, watch"
    )
    assert outcome == "promoted"
    assert "ended without a result" in error
    assert release == [3, 4]
    assert (watched, state) == ({"temperature": [3, 2]}, "watching")
    write_paired_outcomes(dsn, worse=1.0, new="3", old="2")
    retrainer.run_once()
    assert watch_state(dsn)[0] == "rolled_back"
    assert store.aliases().champions == {"soh": 1, "temperature": 2}


@pytest.mark.parametrize("how", ["another training", "manual"])
def test_promotion_by_another_training_or_a_user_is_not_attributed(
    how: str, dsn: str, retrainer: Retrainer, tmp_path: Path
) -> None:
    store = retrainer.registry
    number = retrainer.records.start("manual", (), 2)
    tag = str(number) if how == "manual" else "999"
    models = ModelFiles(tmp_path / "models")
    models.train("temperature", noise=0.02)
    provenance = Provenance("made_up", tags={"retrain": tag})
    allowed = ["soh"] if how == "manual" else ["temperature"]
    register_all(store, models.folder, models.metrics, GATE, provenance, by="the tests", promotable=allowed)
    if how == "manual":
        promote(store, GATE, {"temperature": 3}, reason="I like it", by="Ada")
    assert store.aliases().champions == {"temperature": 3}
    retrainer.run_once()
    assert retrains(dsn, "outcome, watch") == [("failed", None)]


def replace_pipeline(monkeypatch: pytest.MonkeyPatch, noise: float, meanwhile: Callable[[], object]) -> None:
    """Replace minutes of `dvc repro` by a temperature model."""

    def train(self: Workspace, _var: Path, _check: Callable[[], None]) -> None:
        models = ModelFiles(self.models)
        models.train("temperature", noise=noise)
        self.reports.mkdir()
        (self.reports / "metrics.json").write_text(json.dumps(models.metrics))
        (self.reports / "folds.json").write_text("{}")
        (self.folder / "dvc.lock").write_text("")
        meanwhile()

    monkeypatch.setattr(Workspace, "train", train)


def test_previous_release_is_the_one_that_was_replaced(
    dsn: str, retrainer: Retrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = retrainer.registry
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    replace_pipeline(monkeypatch, 0.02, lambda: register(store, ModelFiles(tmp_path / "ada"), "soh", 0.1))
    done = retrainer.run_once("manual")
    assert done is not None
    assert done.error is None
    assert done.promotion == Promotion(4, 3, {"temperature": (3, 2)})
    assert retrains(dsn, "outcome, release_before, release_after, watch") == [("promoted", 3, 4, "watching")]


def test_release_made_by_others_during_the_training_is_not_attributed(
    dsn: str, retrainer: Retrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = retrainer.registry
    client = store.client
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    alias = ("battery-temperature", "champion", "1")
    replace_pipeline(monkeypatch, 5.0, lambda: client.set_registered_model_alias(*alias))
    done = retrainer.run_once("manual")
    assert done is not None
    assert done.promotion is None
    assert retrains(dsn, "outcome, watch") == [("not_promoted", None)]
    assert store.aliases().release == 3, "the release follows the moved alias"


def test_connection_loss_during_registration_does_not_lose_the_promotion(
    dsn: str, retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    replace_pipeline(monkeypatch, 0.02, lambda: None)
    finish = RetrainStore.finish

    def finish_without_connection(self: RetrainStore, *values: Any, **named: Any) -> None:
        monkeypatch.setattr(RetrainStore, "finish", finish)
        query(dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'retrain by%%'")
        finish(self, *values, **named)

    monkeypatch.setattr(RetrainStore, "finish", finish_without_connection)
    done = retrainer.run_once("manual")
    assert done is not None
    assert done.error is not None
    assert done.promotion == Promotion(3, 2, {"temperature": (3, 2)})
    assert retrains(dsn, "outcome, release_before, watch") == [("promoted", 2, "watching")]


def test_outcome_is_recorded_once_the_registry_is_available_again(
    dsn: str, retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(_: RegistryStore) -> None:
        raise MlflowException("the registry is unavailable")

    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    with monkeypatch.context() as patch:
        replace_pipeline(patch, 0.02, lambda: patch.setattr(RegistryStore, "aliases", unavailable))
        done = retrainer.run_once("manual")
        assert done is not None
        assert done.error == "MlflowException: the registry is unavailable"
        assert retrains(dsn) == [(None, done.error)]
    retrainer.run_once()
    assert retrains(dsn) == [("failed", done.error)]


def test_promotion_recorded_late_overrides_a_failure(dsn: str) -> None:
    records = RetrainStore(dsn, "battery", "Ada")
    number = records.start("a", (), 1)
    records.finish(number, "failed", error="it ended without a result")
    records.finish(number, "promoted", release=3, previous=2, watched={"temperature": (3, 2)})
    records.finish(number, "failed", error="too late")
    assert retrains(dsn, "outcome, error, release_before, watch") == [("promoted", None, 2, "watching")]
    records.close()


# Promotion monitoring


def record_promotion(dsn: str, store: RegistryStore) -> int:
    """Record of a training that promoted temperature 2 over temperature 1; returns its id."""
    records = RetrainStore(dsn, "battery", "the tests")
    release = store.aliases().release
    assert release is not None
    previous = store.previous_release(release)
    number = records.start("errors of temperature drift", (), previous)
    store.set_challenger("temperature", 1)
    records.finish(number, "promoted", release=release, watched={"temperature": (2, 1)})
    records.close()
    return number


def write_paired_outcomes(
    dsn: str, worse: float, *, batteries: int = 8, times: int = 10, new: str = "2", old: str = "1", since: int = 0
) -> None:
    """Outcomes at the same times for champion `new` and its shadow `old`, with a battery effect in the errors."""
    rng = np.random.default_rng(11 + since)
    rows = []
    for number in range(batteries):
        difficulty = rng.uniform(0.1, 1.0)
        for index in range(since, since + times):
            shared = abs(rng.normal()) * difficulty
            new_error = shared * (1.0 + worse) + 0.2 * difficulty * rng.normal()
            for role, version, error in (("champion", new, new_error), ("challenger", old, shared)):
                predicted_at = at(index * 300.0)
                rows.append(
                    (f"EV-{number}", predicted_at, "temperature", role, "battery-temperature", version,
                     25.0 + error, 25.0, error, predicted_at + timedelta(seconds=300))
                )  # fmt: skip
    connection = psycopg2.connect(dsn)
    with connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO prediction_outcomes (battery_id, time, target, role, model_name, model_version, value, "
            "actual, error, matured_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )
    connection.close()


def watch_state(dsn: str) -> tuple[str, str | None]:
    ((state, detail),) = query(dsn, "SELECT watch, watch_detail FROM retrains")
    return state, detail


def test_promotion_worse_than_its_shadow_is_rolled_back(dsn: str, retrainer: Retrainer) -> None:
    store = retrainer.registry
    record_promotion(dsn, store)
    write_paired_outcomes(dsn, worse=1.0)
    retrainer.run_once()
    state, detail = watch_state(dsn)
    assert state == "rolled_back"
    assert "of its predecessor on the same 80 outcomes of 8 batteries" in (detail or "")
    aliases = store.aliases()
    assert (aliases.champions, aliases.release, aliases.challengers) == ({"temperature": 1}, 1, {"temperature": 2})
    event = store.events()[-1]
    assert (event.kind, event.after) == ("rollback", aliases)
    assert event.reason.startswith("release 2 is worse than its predecessor: temperature 2: live error ")
    retrainer.run_once()
    assert store.events()[-1] == event, "recorded once"


def test_better_promotion_passes_monitoring(dsn: str, retrainer: Retrainer) -> None:
    store = retrainer.registry
    record_promotion(dsn, store)
    write_paired_outcomes(dsn, worse=-0.5)
    retrainer.run_once()
    assert watch_state(dsn)[0] == "watching"
    write_paired_outcomes(dsn, worse=-0.5, since=10)
    retrainer.run_once()
    assert watch_state(dsn) == ("passed", "not worse than its predecessor over 160 outcomes")
    aliases = store.aliases()
    assert (aliases.champions, aliases.challengers) == ({"temperature": 2}, {"temperature": 2})
    assert store.events()[-1].kind == "shadow"


def test_noise_causes_no_rollback(dsn: str, retrainer: Retrainer) -> None:
    record_promotion(dsn, retrainer.registry)
    for since in (0, 10):
        write_paired_outcomes(dsn, worse=0.0, since=since)
        retrainer.run_once()
    assert watch_state(dsn)[0] == "passed"
    assert retrainer.registry.aliases().champions == {"temperature": 2}


@pytest.mark.parametrize(
    "few", [{"times": 4}, {"batteries": 3, "times": 30}, {"old": "7"}], ids=["outcomes", "batteries", "shadow"]
)
def test_insufficient_data_causes_no_rollback(dsn: str, retrainer: Retrainer, few: dict[str, Any]) -> None:
    record_promotion(dsn, retrainer.registry)
    write_paired_outcomes(dsn, worse=1.0, **few)
    retrainer.run_once()
    state, detail = watch_state(dsn)
    assert state == "watching"
    assert ("TWIN_SHADOW" in (detail or "")) == ("old" in few)
    assert retrainer.registry.aliases().champions == {"temperature": 2}


def test_predecessor_stays_challenger_when_other_models_are_registered(dsn: str, retrainer: Retrainer) -> None:
    store = retrainer.registry
    record_promotion(dsn, store)
    store.set_challenger("temperature", 2)  # as registering does
    retrainer.run_once()
    assert store.aliases().challengers == {"temperature": 1}
    event = store.events()[-1]
    assert event.kind == "shadow"
    retrainer.run_once()
    assert store.events()[-1] == event, "recorded once"


def test_monitoring_with_too_few_batteries_does_not_pass(dsn: str, retrainer: Retrainer) -> None:
    record_promotion(dsn, retrainer.registry)
    write_paired_outcomes(dsn, worse=-0.5, batteries=3, times=100)
    retrainer.run_once()
    assert watch_state(dsn) == ("watching", "only 3 batteries have outcomes of both models; at least 4 are needed")


@pytest.mark.parametrize(
    "act",
    [
        lambda store: rollback(store, reason="I know better", by="Ada"),
        lambda store: promote(store, GATE, {"temperature": 1}, reason="I know better", by="Ada", force=True),
    ],
    ids=["rollback", "promote"],
)
def test_manual_rollback_or_promotion_ends_monitoring(
    dsn: str, retrainer: Retrainer, act: Callable[[RegistryStore], object]
) -> None:
    record_promotion(dsn, retrainer.registry)
    write_paired_outcomes(dsn, worse=1.0)
    act(retrainer.registry)
    release = retrainer.registry.aliases().release
    retrainer.run_once()
    assert watch_state(dsn)[0] == "superseded"
    assert retrainer.registry.aliases().release == release


def test_rollback_interrupted_before_its_record_is_recorded_later(
    dsn: str, retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = record_promotion(dsn, retrainer.registry)
    write_paired_outcomes(dsn, worse=1.0)

    def killed(*_: Any) -> None:
        raise psycopg2.OperationalError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RetrainStore, "end_watch", killed)
        with pytest.raises(psycopg2.OperationalError):
            retrainer.run_once()
    assert watch_state(dsn)[0] == "watching"
    assert retrainer.registry.aliases().release == 1
    retrainer.run_once()
    state, detail = watch_state(dsn)
    assert state == "rolled_back"
    assert (detail or "").startswith("temperature 2: live error ")
    query(dsn, "UPDATE retrains SET ended_at = now() - interval '1 s' WHERE retrain_id = %s", (number,))
    assert retrainer.records.history().unchanged == 1


@pytest.mark.parametrize("deleted", [("battery-temperature", "1"), ("battery-twin", "1")], ids=["model", "release"])
def test_deleted_predecessor_ends_monitoring_and_does_not_block_training(
    deleted: tuple[str, str], dsn: str, retrainer: Retrainer
) -> None:
    record_promotion(dsn, retrainer.registry)
    write_paired_outcomes(dsn, worse=1.0)
    retrainer.registry.client.delete_model_version(*deleted)
    write_drift(dsn)
    done = retrainer.run_once()
    assert done is not None, "the drift starts a training"
    state, detail = query(dsn, "SELECT watch, watch_detail FROM retrains ORDER BY retrain_id")[0]
    assert state == "superseded"
    assert f"there is no version 1 of {deleted[0]}" in detail


def test_monitoring_lasts_the_minimum_event_time_for_any_number_of_outcomes(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings.model_copy(update={"telemetry_dsn": SecretStr(dsn)})
    params = {**PARAMS, "rollback": {**PARAMS["rollback"], "watch_s": 86_400.0}}
    write(dsn, readings=[reading(f"EV-{n}", 0.0) for n in range(8)])
    record_promotion(dsn, champions)
    with open_retrainer(settings, params, threading.Event()) as retrainer:
        retrainer.run_once()
        write_paired_outcomes(dsn, worse=-0.5, times=30)
        retrainer.run_once()
        retrainer.run_once()
        assert watch_state(dsn)[0] == "watching"
        assert query(dsn, "SELECT watch_looks FROM retrains") == [({"temperature": 159},)]
        write(dsn, readings=[reading("EV-0", 86_400.0 + n) for n in range(9)])
        retrainer.run_once()
        assert watch_state(dsn)[0] == "watching", "one clock set ahead does not move the watermark"
        write(dsn, readings=[reading(f"EV-{n}", 86_400.0) for n in range(8)])
        retrainer.run_once()
        assert watch_state(dsn)[0] == "passed"


# Metrics


def test_exporter_counts_retrainings_and_promotion_watches(dsn: str, tmp_path: Path) -> None:
    records = RetrainStore(dsn, "battery", "Ada")
    records.finish(records.start("a", (), 1), "failed", error="no")
    records.finish(records.start("b", (), 1), "promoted", release=2, watched={"soh": (2, 1)})
    records.finish(records.start("c", (), 2), "stopped", error="it was stopped")
    records.start("d", (), 2)
    records.close()
    reader = FleetReader(dsn)
    registry = CollectorRegistry()
    registry.register(TwinCollector(reader, RegistryPoller(Settings(var=tmp_path))))
    exported = generate_latest(registry).decode()
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
        assert line in exported
