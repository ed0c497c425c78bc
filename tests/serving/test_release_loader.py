"""The release loader follows the registry: promotions, rollbacks, failures, challengers and metrics."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from deploy.servers.process import unused_port
from features.state import STATE_VERSION, new_states
from features.targets import TARGET_NAMES
from serving.feature_snapshots import FeatureSnapshots, snapshots_of
from serving.release_loader import ReleaseLoader
from serving.service_metrics import ReleaseMetrics, ServiceMetrics
from telemetry.settings import Settings
from tests.serving.conftest import ROOT
from tests.training.small_models import GATE, ModelFiles
from training.last_release import load_last_release
from training.registry.promotion import promote, rollback
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import CHAMPION, PinnedModel, Release, read_release, twin_name


@pytest.fixture(scope="module")
def store(registry: Settings, tmp_path_factory: pytest.TempPathFactory) -> RegistryStore:
    """A separate domain with two versions of each model; the first versions are champions and challengers."""
    settings = registry.model_copy(update={"domain": "followed", "shadow": True})
    store = RegistryStore.open(settings, settings.domain)
    models = ModelFiles(tmp_path_factory.mktemp("followed"))
    for noise in (0.1, 0.3):
        for target in TARGET_NAMES:
            models.train(target, state_version=STATE_VERSION, noise=noise)
        register_all(store, models.folder, models.metrics, GATE, Provenance("made_up"), by="the tests")
    return store


class LoaderProbe:
    """A release loader with its metrics."""

    def __init__(self, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self.loader = ReleaseLoader(settings, ReleaseMetrics(self._registry))

    def refreshed(self) -> ReleaseLoader:
        self.loader.refresh()
        return self.loader

    def served(self) -> tuple[str, dict[str, int] | None]:
        scorer = self.refreshed().scorer
        assert scorer is not None
        return scorer.champion.label, None if scorer.challenger is None else dict(scorer.challenger.versions)

    def sample(self, metric: str, /, **labels: str) -> float | None:
        return self._registry.get_sample_value(metric, labels)


@pytest.fixture
def probe(store: RegistryStore) -> Iterator[LoaderProbe]:
    for target in TARGET_NAMES:
        store.set_challenger(target, 1)
    store.set_champions(dict.fromkeys(TARGET_NAMES, 1), 1)
    probe = LoaderProbe(store.settings)
    yield probe
    probe.loader.stop()


def test_promotion_and_rollback_replace_the_scorer(probe: LoaderProbe, store: RegistryStore) -> None:
    assert probe.served() == ("followed-twin/1", None)
    before = probe.loader.scorer
    assert probe.refreshed().scorer is before
    promote(store, GATE, {"soh": 2}, reason="a test", by="the tests", force=True)
    release = store.aliases().release
    assert probe.served() == (f"followed-twin/{release}", {"soh": 1})  # the old champion shadows its successor
    assert probe.sample("release_version", name="followed-twin") == release
    rollback(store, reason="a test", by="the tests")
    assert probe.served() == ("followed-twin/1", None)
    assert probe.sample("release_load_failures_total", reason="release") is None


def test_thread_loads_the_champion(probe: LoaderProbe, store: RegistryStore) -> None:
    quick = LoaderProbe(store.settings.model_copy(update={"registry_poll_s": 0.05}))
    quick.loader.follow()
    try:
        for _ in range(600):
            if quick.loader.scorer is not None:
                break
            quick.loader._stopping.wait(0.05)
        assert quick.loader.scorer is not None
    finally:
        quick.loader.stop()


def broken_release(store: RegistryStore) -> int:
    present = read_release(store.client, store.domain, 1)
    damaged = PinnedModel(present.models["soh"].name, 1, "0" * 64)
    return store.add_release(Release(store.domain, {"soh": damaged}, STATE_VERSION, {}), 1, "broken by a test")


def test_release_that_cannot_be_loaded_keeps_the_present_one_and_backs_off(
    probe: LoaderProbe, store: RegistryStore
) -> None:
    probe.served()
    store.client.set_registered_model_alias(twin_name(store.domain), CHAMPION, str(broken_release(store)))
    for _ in range(3):  # tried once: the next attempt is delayed by the backoff
        assert probe.served() == ("followed-twin/1", None)
    assert probe.sample("release_load_failures_total", reason="release") == 1
    assert probe.sample("release_load_failing", reason="release") == 1
    assert probe.sample("release_version", name="followed-twin") == 1
    probe.loader._retries["release"].not_before = 0.0
    probe.refreshed()
    assert probe.sample("release_load_failures_total", reason="release") == 2
    assert next(probe.loader._retries["release"].pauses_s) == 4.0  # after 1 and 2 s
    store.client.set_registered_model_alias(twin_name(store.domain), CHAMPION, "1")
    probe.refreshed()
    assert probe.sample("release_load_failing", reason="release") == 0


def test_release_of_another_state_version_is_not_served(probe: LoaderProbe, store: RegistryStore) -> None:
    present = read_release(store.client, store.domain, 1)
    other = store.add_release(Release(store.domain, present.models, 99, {}), 1, "of another state version")
    fresh = LoaderProbe(store.settings.model_copy(update={"var": store.settings.var / "elsewhere"}))
    store.client.set_registered_model_alias(twin_name(store.domain), CHAMPION, str(other))
    fresh.loader._client = store.client
    assert fresh.refreshed().scorer is None
    assert "state version" in fresh.loader.problem
    assert "retries" in fresh.loader.problem


def test_registry_unavailable_keeps_the_loaded_release(
    probe: LoaderProbe, store: RegistryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    probe.served()
    unavailable = store.settings.model_copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{unused_port()}"})
    probe.loader._settings, probe.loader._client = unavailable, None
    for _ in range(2):
        assert probe.served() == ("followed-twin/1", None)
    assert probe.sample("release_load_failing", reason="registry") == 1
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == ["serving.release_loader"]
    probe.loader._settings, probe.loader._client = store.settings, None
    assert probe.served() == ("followed-twin/1", None)
    assert probe.sample("release_load_failing", reason="registry") == 0

    started_meanwhile = LoaderProbe(unavailable)
    assert started_meanwhile.served() == ("followed-twin/1", None)
    without_cache = LoaderProbe(unavailable.model_copy(update={"var": unavailable.var / "empty"}))
    assert without_cache.refreshed().scorer is None
    assert without_cache.loader.problem.startswith("the model registry is unavailable")
    assert "127.0.0.1" not in without_cache.loader.problem


@pytest.fixture
def own_store(tmp_path: Path, empty_registry: Path) -> RegistryStore:
    """An empty registry of its own."""
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    return RegistryStore.open(Settings(var=tmp_path), "battery")


def register_soh(store: RegistryStore, noise: float) -> None:
    models = ModelFiles(store.settings.var / "trained")
    models.train("soh", state_version=STATE_VERSION, noise=noise)
    register_all(store, models.folder, models.metrics, GATE, Provenance("made_up"), by="the tests")


def test_deleted_release_is_served_until_another_one_is_made(
    own_store: RegistryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """At a restart too; the log and the metrics say that it is missing."""
    running = LoaderProbe(own_store.settings)
    assert running.refreshed().scorer is None
    assert "battery-twin@champion; run `dvc repro`" in running.loader.problem
    register_soh(own_store, 0.1)
    assert running.served() == ("battery-twin/1", None)

    own_store.client.delete_model_version("battery-twin", "1")
    restarted = LoaderProbe(own_store.settings)
    for probe in (running, restarted):
        for _ in range(2):
            assert probe.served() == ("battery-twin/1", None)
        assert probe.sample("release_load_failing", reason="release") == 1
    assert "training.registry promote --reason" in caplog.text

    register_soh(own_store, 0.1)
    for probe in (running, restarted):
        assert probe.served() == ("battery-twin/2", None)
        assert probe.sample("release_load_failing", reason="release") == 0


def test_release_of_a_registry_made_anew_replaces_the_last_one_of_the_same_number(own_store: RegistryStore) -> None:
    served = []
    for noise in (0.1, 0.3):
        probe = LoaderProbe(own_store.settings)
        probe.refreshed()
        register_soh(own_store, noise)
        assert probe.served() == ("battery-twin/1", None)
        scorer = probe.loader.scorer
        assert scorer is not None
        served.append(scorer.champion.predict_snapshots(snapshots())["soh"].values)
        for name in ("battery-twin", "battery-soh"):
            own_store.client.delete_registered_model(name)
    assert not np.array_equal(*served)


def test_last_release_needs_all_its_models_in_the_cache(probe: LoaderProbe, store: RegistryStore) -> None:
    probe.served()
    last = load_last_release(store.settings)
    assert last is not None
    assert last.label == "followed-twin/1"
    elsewhere = store.settings.model_copy(update={"var": store.settings.var / "half"})
    (elsewhere.var / "models").mkdir(parents=True)
    record = Path("models") / "followed-twin.json"
    (elsewhere.var / record).write_text((store.settings.var / record).read_text())
    assert load_last_release(elsewhere) is None


def snapshots() -> FeatureSnapshots:
    states = new_states(3)
    states[:] = np.random.default_rng(0).uniform(20, 40, states.shape)
    return snapshots_of(states)


def test_challengers_are_loaded_and_predict_with_the_champion(probe: LoaderProbe, store: RegistryStore) -> None:
    store.set_challenger("soh", 2)
    store.set_challenger("temperature", 2)
    assert probe.served() == ("followed-twin/1", {"soh": 2, "temperature": 2})
    scorer = probe.loader.scorer
    assert scorer is not None
    made = snapshots()
    rows = scorer.score(["A"] * len(made), made, datetime.now(UTC)).rows
    models = {(row["role"], row["target"]): (row["model_name"], row["model_version"]) for row in rows}
    assert models["champion", "soh"] == ("followed-soh", "1")
    assert models["challenger", "soh"] == ("followed-soh", "2")
    assert ("champion", "rul") in models
    assert ("challenger", "rul") not in models
    soh = {role: [row["value"] for row in rows if (row["role"], row["target"]) == (role, "soh")] for role, _ in models}
    assert len(soh["champion"]) == len(made)
    assert all(mine != theirs for mine, theirs in zip(soh["champion"], soh["challenger"], strict=True))
    assert probe.sample("challenger_version", target="soh") == 2
    assert probe.sample("challenger_version", target="rul") == 0

    promote(store, GATE, {"soh": 2}, reason="a test", by="the tests", force=True)
    label, challengers = probe.served()
    assert (label, challengers) == (f"followed-twin/{store.aliases().release}", {"temperature": 2})
    store.set_challenger("temperature", 1)
    assert probe.served() == (label, None)
    assert probe.sample("challenger_version", target="temperature") == 0


def test_challengers_are_not_loaded_without_shadow_mode(store: RegistryStore, probe: LoaderProbe) -> None:
    store.set_challenger("soh", 2)
    plain = LoaderProbe(store.settings.model_copy(update={"shadow": False}))
    assert plain.served() == ("followed-twin/1", None)


def test_challenger_that_cannot_be_loaded_is_reported_and_left_out(probe: LoaderProbe, store: RegistryStore) -> None:
    run = store.client.get_model_version("followed-soh", "1").run_id
    foreign = store.client.create_model_version("followed-soh", f"runs:/{run}/model", run_id=run)
    store.set_challenger("soh", int(foreign.version))
    assert probe.served() == ("followed-twin/1", None)
    assert probe.sample("release_load_failing", reason="challenger") == 1
    store.set_challenger("soh", 2)
    assert probe.served() == ("followed-twin/1", {"soh": 2})
    assert probe.sample("release_load_failing", reason="challenger") == 0


_WORKER = """
import sys
from serving.service_metrics import ServiceMetrics
metrics = ServiceMetrics()
metrics.release._version.labels("twin").set(int(sys.argv[1]))
metrics.release.record_failure("release")
"""


def test_gauges_of_dead_workers_are_dropped_and_their_counters_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER, version], cwd=ROOT, env=environment) for version in ("3", "4")
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert len(list(tmp_path.glob("gauge_liveall_*.db"))) == 2
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    text = ServiceMetrics().exposition().decode()
    assert "release_version{" not in text
    assert 'release_load_failing{reason="release"}' not in text
    assert 'release_load_failures_total{reason="release"} 2.0' in text
