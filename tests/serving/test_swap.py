"""The real service follows the registry: two workers, real HTTP, promotions and rollbacks under load, challengers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from pydantic import SecretStr

from features.state import STATE_VERSION
from features.targets import TARGET_NAMES
from serving.surface import SURFACES
from telemetry.settings import Settings
from tests.serving.conftest import serve
from tests.training.small_models import GATE, ModelFiles
from training.registry.promotion import promote, rollback
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import CHAMPION, PinnedModel, Release, read_release, twin_name

Battery = Callable[..., dict[str, Any]]
#: What the registry's users are promised between a promotion and the last worker's first new answer.
PROMISED_S = 5.0


@dataclass
class Twin:
    """A service on a registry that a test may change."""

    http: httpx.Client
    store: RegistryStore
    dsn: str
    first_answers: dict[str, httpx.Response] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        text = self.http.get("/metrics").text
        return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}

    def versions(self) -> list[float]:
        """What each worker serves."""
        return [value for name, value in self.metrics().items() if name.startswith("release_version{")]

    def wait_for(self, release: int) -> float:
        """Seconds until both workers serve `release`."""
        start = time.monotonic()
        while self.versions() != [release, release]:
            assert time.monotonic() - start < 60, f"{self.versions()} instead of {release}"
            time.sleep(0.05)
        return time.monotonic() - start


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path, postgres_server: str) -> Iterator[Twin]:
    """A service that was started on an empty registry, which then got two versions of each model; it shadows."""
    folder = tmp_path_factory.mktemp("swap")
    with psycopg2.connect(postgres_server) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA swap")
    dsn = f"{postgres_server}&options=-c%20search_path%3Dswap"
    settings = Settings(var=folder / "var", shadow=True, telemetry_dsn=SecretStr(dsn))
    settings.var.mkdir()
    shutil.copy(empty_registry, settings.var / "mlflow.db")
    store = RegistryStore.open(settings, settings.domain)
    assert store.events() == []
    with serve(settings, workers=2, ready="/livez") as client:
        twin = Twin(client, store, dsn)
        twin.first_answers = {
            "ready": client.get("/readyz"),
            "predict": client.post("/predict", content=b'{"batteries": [{"battery_id": "A"}]}'),
            "live": client.get("/livez"),
        }
        models = ModelFiles(folder / "models")
        provenance = Provenance(source="made_up", data_sha256=dict.fromkeys(TARGET_NAMES, "ab" * 32))
        for noise in (0.1, 0.3):
            for target in TARGET_NAMES:
                models.train(target, state_version=STATE_VERSION, noise=noise)
            register_all(store, models.folder, models.metrics, GATE, provenance, by="the tests")
        assert store.aliases().champions == dict.fromkeys(TARGET_NAMES, 1)
        twin.wait_for(1)
        yield twin


def test_without_champion_it_is_alive_and_says_what_to_do(twin: Twin) -> None:
    assert twin.first_answers["live"].status_code == 200
    for answer in (twin.first_answers["ready"], twin.first_answers["predict"]):
        assert answer.status_code == 503
        assert "dvc repro" in answer.text


def test_it_becomes_ready_by_itself(twin: Twin) -> None:
    assert twin.http.get("/readyz").status_code == 200


@dataclass
class Load:
    """What clients that ask all the time saw: releases and the labels of their models, and what failed."""

    answers: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def load(twin: Twin, body: bytes, threads: int = 4) -> Iterator[Load]:
    seen, stop = Load(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            # Each worker keeps the connections that it took: new ones reach both.
            with httpx.Client(base_url=twin.http.base_url, timeout=30) as client:
                for _ in range(10):
                    try:
                        response = client.post("/predict", content=body)
                        response.raise_for_status()
                    except httpx.HTTPError as error:
                        seen.failures.append(repr(error))
                        continue
                    for entry in response.json()["predictions"]:
                        labels = tuple(entry[surface.field]["model"] for surface in SURFACES.values())
                        seen.answers.append((entry["release"], labels))
                    time.sleep(0.005)

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def labels_of(store: RegistryStore, release: str) -> tuple[str, ...]:
    models = read_release(store.client, store.domain, int(release.rpartition("/")[2])).models
    return tuple(f"{models[target].name}/{models[target].version}" for target in SURFACES)


def test_promotions_and_rollbacks_fail_no_request_and_mix_no_releases(twin: Twin, battery: Battery) -> None:
    batteries = [battery(f"B{i}", cycles=range(1, 15)) for i in range(3)]
    waited = []
    with load(twin, json.dumps({"batteries": batteries}).encode()) as seen:
        for i in range(5):
            target = TARGET_NAMES[i % len(TARGET_NAMES)]
            promote(twin.store, GATE, {target: 2}, reason="a test", by="the tests", force=True)
            waited.append(twin.wait_for(twin.store.aliases().release or 0))
            rollback(twin.store, reason="a test", by="the tests")
            waited.append(twin.wait_for(1))
    assert seen.failures == []
    served = {release for release, _ in seen.answers}
    assert served == {f"battery-twin/{version}" for version in range(1, 7)}
    assert set(seen.answers) == {(release, labels_of(twin.store, release)) for release in served}
    print("seconds until every worker answered anew:", [round(seconds, 2) for seconds in waited])
    assert max(waited) < PROMISED_S
    assert len(seen.answers) > 1000


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_release_leaves_the_old_one_serving_and_raises_a_metric(
    twin: Twin, battery: Battery, damage: str
) -> None:
    present = read_release(twin.store.client, "battery", 1)
    soh = present.models["soh"]
    wrong = PinnedModel(soh.name, soh.version, "0" * 64) if damage == "changed" else PinnedModel(soh.name, 99, "1" * 64)
    broken = Release("battery", {**present.models, "soh": wrong}, STATE_VERSION, present.horizons)
    version = twin.store.add_release(broken, 1, "broken by a test")
    before = twin.metrics()
    assert before.get('release_load_failing{reason="release"}', 0) == 0
    with load(twin, json.dumps({"batteries": [battery(cycles=range(1, 15))]}).encode(), threads=2) as seen:
        twin.store.client.set_registered_model_alias(twin_name("battery"), CHAMPION, str(version))
        deadline = time.monotonic() + 60
        while twin.metrics().get('release_load_failing{reason="release"}') != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        twin.store.client.set_registered_model_alias(twin_name("battery"), CHAMPION, "1")
        while twin.metrics().get('release_load_failing{reason="release"}') != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert seen.failures == []
    assert {release for release, _ in seen.answers} == {"battery-twin/1"}
    after = twin.metrics()
    name = 'release_load_failures_total{reason="release"}'
    assert 2 <= after[name] - before.get(name, 0) < 12  # each worker at least once, and with growing pauses


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_challengers_are_recorded_for_every_battery_and_never_answer(twin: Twin, battery: Battery) -> None:
    for target in TARGET_NAMES:
        twin.store.set_challenger(target, 2 if target in ("soh", "rul") else 1)
    shadows = {"soh": 2.0, "rul": 2.0, "temperature": 0.0, "failure": 0.0}

    def both_workers_shadow() -> bool:
        told = [(name, value) for name, value in twin.metrics().items() if name.startswith("challenger_version{")]
        targets = [(str(re.findall(r'target="(\w+)"', name)[0]), value) for name, value in told]
        return sorted(targets) == sorted([*shadows.items()] * 2)

    until(both_workers_shadow)
    body = {
        "batteries": [battery(f"shadowed-{i}", readings=range(0, 30 * i, 30), cycles=range(1, 15)) for i in range(1, 9)]
    }
    answered = [
        twin.http.post("/predict", content=json.dumps(body | {"every_reading": every_reading})).json()["predictions"]
        for every_reading in (False, True)
    ]
    expected = {(entry["battery_id"], entry["time"]): entry for entries in answered for entry in entries}
    assert len(expected) == sum(range(1, 9))
    for entry in expected.values():
        labels = [entry[surface.field]["model"] for surface in SURFACES.values()]
        assert labels == [f"battery-{target}/1" for target in SURFACES]

    with psycopg2.connect(twin.dsn) as connection, connection.cursor() as cursor:

        def stored() -> list[tuple[Any, ...]]:
            cursor.execute(
                "SELECT battery_id, time, target, value, model_name, model_version, role FROM battery_predictions "
                "WHERE battery_id LIKE 'shadowed-%'"
            )
            connection.commit()
            return cursor.fetchall()

        until(lambda: len(stored()) >= 2 * len(expected))
        rows = stored()
    kept = {(battery_id, f"{time:%Y-%m-%dT%H:%M:%S}Z", target): value for battery_id, time, target, value, *_ in rows}
    assert kept.keys() == {(*moment, target) for moment in expected for target in ("soh", "rul")}
    assert {row[2:] for row in ((*row[:2], row[4], row[5], row[6]) for row in rows)} == {
        ("battery-soh", "2", "challenger"),
        ("battery-rul", "2", "challenger"),
    }
    for (battery_id, when, target), value in kept.items():
        assert value != expected[battery_id, when][SURFACES[target].field]["value"]
    assert twin.metrics()["shadow_predictions_total"] >= len(kept)


@pytest.mark.slow
def test_a_worker_that_died_is_replaced_and_not_shown_any_more(twin: Twin) -> None:
    before = {name for name in twin.metrics() if name.startswith("release_version{")}
    victim = re.search(r'pid="(\d+)"', min(before))
    assert victim is not None
    os.kill(int(victim.group(1)), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        try:
            now = {name for name in twin.metrics() if name.startswith("release_version{")}
        except httpx.TransportError:  # a connection that the victim held
            continue
        if len(now) == 2 and now != before:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(now & before) == 1
