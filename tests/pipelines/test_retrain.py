"""The retraining on a real store and a real registry: who may work, what is recorded, and what takes a promotion back.

What trains is in `test_loop.py`; here a training comes as far as the store lets it.
"""

from __future__ import annotations

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
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr

from data.settings import Settings
from data.stores.migrate import migrate
from monitoring.exporter import TwinCollector
from monitoring.fleet import FleetReader
from monitoring.registry import RegistryWatch
from pipelines.retrain import Retrainer, retraining
from pipelines.retraining.records import RetrainStore
from tests.monitoring.store_rows import at, query
from tests.training.small_models import GATE, ModelFiles
from training.registry.promotion import promote, rollback
from training.registry.registration import Provenance, register_all
from training.registry.store import RegistryStore

ROOT = Path(__file__).resolve().parents[2]
PARAMS: Mapping[str, Any] = {
    **yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")),
    "retrain": {"pause_s": 0.0, "longest_pause_s": 0.0},
    "rollback": {"min_outcomes": 40, "max_outcomes": 160, "min_batteries": 4, "alpha": 0.01},
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
    assert second.close_orphans() == 1
    ((outcome, error),) = retrains(dsn)
    assert outcome == "failed"
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


def test_what_drifts_in_another_domain_is_left_alone(dsn: str, retrainer: Retrainer) -> None:
    drifting(dsn, domain="lab")
    assert retrainer.look() is None
    assert retrains(dsn) == []


@pytest.mark.slow
def test_the_command_trains_when_it_is_asked_to(dsn: str, champions: RegistryStore) -> None:
    settings = champions.settings
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.retrain", "--reason", "new battery model"],
        cwd=ROOT,
        env={**os.environ, "TWIN_VAR": str(settings.var), "TWIN_TELEMETRY_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing to learn from yet" in done.stderr
    assert retrains(dsn, "outcome, reason") == [("failed", "new battery model")]


# The watch over a promotion


def promoted(dsn: str, store: RegistryStore) -> int:
    """The record of a training that put temperature 2 in the place of temperature 1."""
    records = RetrainStore(dsn, "battery", "the tests")
    release = store.aliases().release
    assert release is not None
    before = store.replaced_by(release)
    number = records.begin("errors of temperature drift", (), before)
    store.set_challenger("temperature", 1)
    records.end(number, "promoted", release=release, watched={"temperature": (2, 1)})
    records.close()
    return number


def lived(dsn: str, worse: float, *, batteries: int = 8, moments: int = 10, old: str = "1", since: int = 0) -> None:
    """Truths of the same moments for champion 2 and for its shadow, with errors that are the battery's own."""
    rng = np.random.default_rng(11 + since)
    rows = []
    for number in range(batteries):
        hardness = rng.uniform(0.1, 1.0)
        for moment in range(since, since + moments):
            shared = abs(rng.normal()) * hardness
            new = shared * (1.0 + worse) + 0.2 * hardness * rng.normal()
            for role, version, error in (("champion", "2", new), ("challenger", old, shared)):
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
    assert event.reason.startswith("worse than its predecessor: temperature 2: live error ")
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


# What is shown


def test_the_exporter_counts_trainings_and_watches(dsn: str, tmp_path: Path) -> None:
    records = RetrainStore(dsn, "battery", "Ada")
    records.end(records.begin("a", (), 1), "failed", error="no")
    records.end(records.begin("b", (), 1), "promoted", release=2, watched={"soh": (2, 1)})
    records.begin("c", (), 2)
    records.close()
    reader = FleetReader(dsn)
    registry = CollectorRegistry()
    registry.register(TwinCollector(reader, RegistryWatch(Settings(var=tmp_path))))
    shown = generate_latest(registry).decode()
    reader.close()
    for line in (
        'model_retrains_total{outcome="promoted"} 1.0',
        'model_retrains_total{outcome="not_promoted"} 0.0',
        'model_retrains_total{outcome="failed"} 1.0',
        "model_retrain_running 1.0",
        'model_promotion_watches{state="watching"} 1.0',
        'model_promotion_watches{state="rolled_back"} 0.0',
    ):
        assert line in shown
