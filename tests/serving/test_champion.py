"""Following the registry, in one process: what is taken over, what is not, and what is told about it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from deploy.servers.process import unused_port
from features.state import STATE_VERSION, new_states
from features.targets import TARGET_NAMES
from serving.champion import Champion
from serving.feature_snapshots import FeatureSnapshots, snapshots_of
from serving.service_metrics import Metrics, ReleaseMetrics
from telemetry.settings import Settings
from tests.serving.conftest import ROOT
from tests.training.small_models import GATE, ModelFiles
from training.last_release import recall_release
from training.registry.promotion import promote, rollback
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import CHAMPION, PinnedModel, Release, read_release, twin_name


@pytest.fixture(scope="module")
def store(registry: Settings, tmp_path_factory: pytest.TempPathFactory) -> RegistryStore:
    """A domain of its own with two versions of each model, of which the first are champions and challengers."""
    settings = registry.model_copy(update={"domain": "followed", "shadow": True})
    store = RegistryStore.open(settings, settings.domain)
    models = ModelFiles(tmp_path_factory.mktemp("followed"))
    for noise in (0.1, 0.3):
        for target in TARGET_NAMES:
            models.train(target, state_version=STATE_VERSION, noise=noise)
        register_all(store, models.folder, models.metrics, GATE, Provenance("made_up"), by="the tests")
    return store


class Followed:
    """A champion and what it tells."""

    def __init__(self, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self.champion = Champion(settings, ReleaseMetrics(self._registry))

    def refreshed(self) -> Champion:
        self.champion.refresh()
        return self.champion

    def served(self) -> tuple[str, dict[str, int] | None]:
        scorer = self.refreshed().scorer
        assert scorer is not None
        return scorer.champion.label, None if scorer.challenger is None else dict(scorer.challenger.versions)

    def told(self, metric: str, /, **labels: str) -> float | None:
        return self._registry.get_sample_value(metric, labels)


@pytest.fixture
def followed(store: RegistryStore) -> Iterator[Followed]:
    for target in TARGET_NAMES:
        store.set_challenger(target, 1)
    store.set_champions(dict.fromkeys(TARGET_NAMES, 1), 1)
    followed = Followed(store.settings)
    yield followed
    followed.champion.stop()


def test_follows_promotion_and_rollback(followed: Followed, store: RegistryStore) -> None:
    assert followed.served() == ("followed-twin/1", None)
    before = followed.champion.scorer
    assert followed.refreshed().scorer is before
    promote(store, GATE, {"soh": 2}, reason="a test", by="the tests", force=True)
    release = store.aliases().release
    assert followed.served() == (f"followed-twin/{release}", {"soh": 1})  # it shadows its successor
    assert followed.told("release_version", name="followed-twin") == release
    rollback(store, reason="a test", by="the tests")
    assert followed.served() == ("followed-twin/1", None)
    assert followed.told("release_load_failures_total", reason="release") is None


def test_the_thread_follows_by_itself(followed: Followed, store: RegistryStore) -> None:
    quick = Followed(store.settings.model_copy(update={"registry_poll_s": 0.05}))
    quick.champion.follow()
    try:
        for _ in range(600):
            if quick.champion.scorer is not None:
                break
            quick.champion._stopping.wait(0.05)
        assert quick.champion.scorer is not None
    finally:
        quick.champion.stop()


def broken_release(store: RegistryStore) -> int:
    present = read_release(store.client, store.domain, 1)
    damaged = PinnedModel(present.models["soh"].name, 1, "0" * 64)
    return store.add_release(Release(store.domain, {"soh": damaged}, STATE_VERSION, {}), 1, "broken by a test")


def test_what_cannot_be_loaded_leaves_the_present_one(followed: Followed, store: RegistryStore) -> None:
    followed.served()
    store.client.set_registered_model_alias(twin_name(store.domain), CHAMPION, str(broken_release(store)))
    for _ in range(3):  # tried once: the next attempt waits
        assert followed.served() == ("followed-twin/1", None)
    assert followed.told("release_load_failures_total", reason="release") == 1
    assert followed.told("release_load_failing", reason="release") == 1
    assert followed.told("release_version", name="followed-twin") == 1
    followed.champion._retries["release"].not_before = 0.0
    followed.refreshed()
    assert followed.told("release_load_failures_total", reason="release") == 2
    assert followed.champion._retries["release"].pause_s == 2.0
    store.client.set_registered_model_alias(twin_name(store.domain), CHAMPION, "1")
    followed.refreshed()
    assert followed.told("release_load_failing", reason="release") == 0


def test_a_release_of_another_fold_is_not_served(followed: Followed, store: RegistryStore) -> None:
    present = read_release(store.client, store.domain, 1)
    other = store.add_release(Release(store.domain, present.models, 99, {}), 1, "of another fold")
    fresh = Followed(store.settings.model_copy(update={"var": store.settings.var / "elsewhere"}))
    store.client.set_registered_model_alias(twin_name(store.domain), CHAMPION, str(other))
    fresh.champion._client = store.client
    assert fresh.refreshed().scorer is None
    assert "fold" in fresh.champion.problem
    assert "tries again" in fresh.champion.problem


def test_a_registry_that_is_away_disturbs_nothing(
    followed: Followed, store: RegistryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    followed.served()
    away = store.settings.model_copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{unused_port()}"})
    followed.champion._settings, followed.champion._client = away, None
    for _ in range(2):
        assert followed.served() == ("followed-twin/1", None)
    assert followed.told("release_load_failing", reason="registry") == 1
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == ["serving.champion"]
    followed.champion._settings, followed.champion._client = store.settings, None
    assert followed.served() == ("followed-twin/1", None)
    assert followed.told("release_load_failing", reason="registry") == 0

    started_meanwhile = Followed(away)
    assert started_meanwhile.served() == ("followed-twin/1", None)
    nothing_here = Followed(away.model_copy(update={"var": away.var / "empty"}))
    assert nothing_here.refreshed().scorer is None
    assert nothing_here.champion.problem.startswith("the registry cannot be asked")
    assert "127.0.0.1" not in nothing_here.champion.problem


def test_what_was_served_last_has_to_be_here_whole(followed: Followed, store: RegistryStore) -> None:
    followed.served()
    recalled = recall_release(store.settings)
    assert recalled is not None
    assert recalled.label == "followed-twin/1"
    elsewhere = store.settings.model_copy(update={"var": store.settings.var / "half"})
    (elsewhere.var / "models").mkdir(parents=True)
    note = Path("models") / "followed-twin.json"
    (elsewhere.var / note).write_text((store.settings.var / note).read_text())
    assert recall_release(elsewhere) is None


def moments() -> FeatureSnapshots:
    states = new_states(3)
    states[:] = np.random.default_rng(0).uniform(20, 40, states.shape)
    return snapshots_of(states)


def test_challengers_predict_beside_the_champion(followed: Followed, store: RegistryStore) -> None:
    store.set_challenger("soh", 2)
    store.set_challenger("temperature", 2)
    assert followed.served() == ("followed-twin/1", {"soh": 2, "temperature": 2})
    scorer = followed.champion.scorer
    assert scorer is not None
    scores = scorer.score(moments())
    assert scores.challenger is not None
    assert scores.champion["soh"].model == "followed-soh/1"
    assert scores.challenger["soh"].model == "followed-soh/2"
    assert (scores.champion["soh"].values != scores.challenger["soh"].values).all()
    assert scores.challenger["rul"].model is None
    assert followed.told("challenger_version", target="soh") == 2
    assert followed.told("challenger_version", target="rul") == 0

    promote(store, GATE, {"soh": 2}, reason="a test", by="the tests", force=True)
    label, challengers = followed.served()
    assert (label, challengers) == (f"followed-twin/{store.aliases().release}", {"temperature": 2})
    store.set_challenger("temperature", 1)
    assert followed.served() == (label, None)
    assert followed.told("challenger_version", target="temperature") == 0


def test_challengers_stay_out_unless_asked_for(store: RegistryStore, followed: Followed) -> None:
    store.set_challenger("soh", 2)
    plain = Followed(store.settings.model_copy(update={"shadow": False}))
    assert plain.served() == ("followed-twin/1", None)


def test_a_challenger_that_cannot_be_loaded_is_told_and_left_out(followed: Followed, store: RegistryStore) -> None:
    run = store.client.get_model_version("followed-soh", "1").run_id
    foreign = store.client.create_model_version("followed-soh", f"runs:/{run}/model", run_id=run)
    store.set_challenger("soh", int(foreign.version))
    assert followed.served() == ("followed-twin/1", None)
    assert followed.told("release_load_failing", reason="challenger") == 1
    store.set_challenger("soh", 2)
    assert followed.served() == ("followed-twin/1", {"soh": 2})
    assert followed.told("release_load_failing", reason="challenger") == 0


_WORKER = """
import sys
from serving.service_metrics import Metrics
metrics = Metrics()
metrics.release._version.labels("twin").set(int(sys.argv[1]))
metrics.release.failed("release")
"""


def test_gauges_of_dead_workers_are_not_shown_and_their_counts_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER, version], cwd=ROOT, env=environment) for version in ("3", "4")
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert len(list(tmp_path.glob("gauge_liveall_*.db"))) == 2
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    text = Metrics().exposition().decode()
    assert "release_version{" not in text
    assert 'release_load_failing{reason="release"}' not in text
    assert 'release_load_failures_total{reason="release"} 2.0' in text
