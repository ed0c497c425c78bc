"""The service follows the registry: two workers over real HTTP, promotions, rollbacks and challengers under load."""

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
from features.targets import TARGET_NAMES, TARGETS
from telemetry.settings import Settings
from tests.serving.conftest import serve
from tests.training.small_models import GATE, ModelFiles
from training.registry.promotion import promote, rollback
from training.registry.registration import Provenance, register_all
from training.registry.registry_store import RegistryStore
from training.release import CHAMPION, PinnedModel, Release, read_release, twin_name

Battery = Callable[..., dict[str, Any]]
#: Maximum time from a promotion until all workers serve the new release.
MAX_SWAP_S = 5.0


@dataclass
class SwapService:
    """A service with a registry that tests change."""

    http: httpx.Client
    store: RegistryStore
    dsn: str
    first_responses: dict[str, httpx.Response] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        text = self.http.get("/metrics").text
        return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}

    def versions(self) -> list[float]:
        """Release version of each worker."""
        return [value for name, value in self.metrics().items() if name.startswith("release_version{")]

    def wait_for(self, release: int) -> float:
        """Seconds until both workers serve `release`."""
        start = time.monotonic()
        while self.versions() != [release, release]:
            assert time.monotonic() - start < 60, f"{self.versions()} instead of {release}"
            time.sleep(0.05)
        return time.monotonic() - start


@pytest.fixture(scope="module")
def swap_service(
    tmp_path_factory: pytest.TempPathFactory, empty_registry: Path, postgres_server: str
) -> Iterator[SwapService]:
    """A service in shadow mode, started before two versions of each model are registered."""
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
        swap_service = SwapService(client, store, dsn)
        swap_service.first_responses = {
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
        swap_service.wait_for(1)
        yield swap_service


def test_service_without_champion_is_alive_and_returns_503(swap_service: SwapService) -> None:
    assert swap_service.first_responses["live"].status_code == 200
    for response in (swap_service.first_responses["ready"], swap_service.first_responses["predict"]):
        assert response.status_code == 503
        assert "dvc repro" in response.text


def test_service_becomes_ready_after_the_first_promotion(swap_service: SwapService) -> None:
    assert swap_service.http.get("/readyz").status_code == 200


@dataclass
class LoadResult:
    """Releases with their model labels in the responses to continuous requests, and failed requests."""

    served: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def load(swap_service: SwapService, body: bytes, threads: int = 4) -> Iterator[LoadResult]:
    seen, stop = LoadResult(), threading.Event()

    def send_requests() -> None:
        while not stop.is_set():
            # A worker keeps its connections: new ones reach both workers.
            with httpx.Client(base_url=swap_service.http.base_url, timeout=30) as client:
                for _ in range(10):
                    try:
                        response = client.post("/predict", content=body)
                        response.raise_for_status()
                    except httpx.HTTPError as error:
                        seen.failures.append(repr(error))
                        continue
                    for entry in response.json()["predictions"]:
                        labels = tuple(entry[target.shown.field]["model"] for target in TARGETS.values())
                        seen.served.append((entry["release"], labels))
                    time.sleep(0.005)

    workers = [threading.Thread(target=send_requests) for _ in range(threads)]
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
    return tuple(f"{models[target].name}/{models[target].version}" for target in TARGETS)


def test_promotions_under_load_fail_no_request_and_mix_no_releases(swap_service: SwapService, battery: Battery) -> None:
    batteries = [battery(f"B{i}", cycles=range(1, 15)) for i in range(3)]
    waited = []
    with load(swap_service, json.dumps({"batteries": batteries}).encode()) as seen:
        for i in range(5):
            target = TARGET_NAMES[i % len(TARGET_NAMES)]
            promote(swap_service.store, GATE, {target: 2}, reason="a test", by="the tests", force=True)
            waited.append(swap_service.wait_for(swap_service.store.aliases().release or 0))
            rollback(swap_service.store, reason="a test", by="the tests")
            waited.append(swap_service.wait_for(1))
    assert seen.failures == []
    served = {release for release, _ in seen.served}
    assert served == {f"battery-twin/{version}" for version in range(1, 7)}
    assert set(seen.served) == {(release, labels_of(swap_service.store, release)) for release in served}
    print("seconds until all workers served the new release:", [round(seconds, 2) for seconds in waited])
    assert max(waited) < MAX_SWAP_S
    assert len(seen.served) > 1000


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_release_keeps_the_old_one_and_raises_a_metric(
    swap_service: SwapService, battery: Battery, damage: str
) -> None:
    present = read_release(swap_service.store.client, "battery", 1)
    soh = present.models["soh"]
    client = swap_service.store.client
    copied = client.get_model_version(soh.name, str(soh.version))
    copy = client.create_model_version(soh.name, copied.source, copied.run_id).version
    wrong = PinnedModel(soh.name, soh.version if damage == "changed" else int(copy), "0" * 64)
    broken = Release("battery", {**present.models, "soh": wrong}, STATE_VERSION, present.horizons)
    version = swap_service.store.add_release(broken, 1, "broken by a test")
    client.delete_model_version(soh.name, copy)
    before = swap_service.metrics()
    assert before.get('release_load_failing{reason="release"}', 0) == 0
    with load(swap_service, json.dumps({"batteries": [battery(cycles=range(1, 15))]}).encode(), threads=2) as seen:
        client.set_registered_model_alias(twin_name("battery"), CHAMPION, str(version))
        deadline = time.monotonic() + 60
        while swap_service.metrics().get('release_load_failing{reason="release"}') != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        client.set_registered_model_alias(twin_name("battery"), CHAMPION, "1")
        while swap_service.metrics().get('release_load_failing{reason="release"}') != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert seen.failures == []
    assert {release for release, _ in seen.served} == {"battery-twin/1"}
    after = swap_service.metrics()
    name = 'release_load_failures_total{reason="release"}'
    assert 2 <= after[name] - before.get(name, 0) < 12  # at least once for each worker, limited by the backoff


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_challenger_predictions_are_stored_and_never_returned(swap_service: SwapService, battery: Battery) -> None:
    for target in TARGET_NAMES:
        swap_service.store.set_challenger(target, 2 if target in ("soh", "rul") else 1)
    shadows = {"soh": 2.0, "rul": 2.0, "temperature": 0.0, "failure": 0.0}

    def both_workers_shadow() -> bool:
        gauges = [
            (name, value) for name, value in swap_service.metrics().items() if name.startswith("challenger_version{")
        ]
        targets = [(str(re.findall(r'target="(\w+)"', name)[0]), value) for name, value in gauges]
        return sorted(targets) == sorted([*shadows.items()] * 2)

    until(both_workers_shadow)
    body = {
        "batteries": [battery(f"shadowed-{i}", readings=range(0, 30 * i, 30), cycles=range(1, 15)) for i in range(1, 9)]
    }
    responses = [
        swap_service.http.post("/predict", content=json.dumps(body | {"every_reading": every_reading})).json()[
            "predictions"
        ]
        for every_reading in (False, True)
    ]
    expected = {(entry["battery_id"], entry["time"]): entry for entries in responses for entry in entries}
    assert len(expected) == sum(range(1, 9))
    for entry in expected.values():
        labels = [entry[target.shown.field]["model"] for target in TARGETS.values()]
        assert labels == [f"battery-{target}/1" for target in TARGETS]

    with psycopg2.connect(swap_service.dsn) as connection, connection.cursor() as cursor:

        def stored() -> list[tuple[Any, ...]]:
            cursor.execute(
                "SELECT battery_id, time, target, value, model_name, model_version, role FROM battery_predictions "
                "WHERE battery_id LIKE 'shadowed-%'"
            )
            connection.commit()
            return cursor.fetchall()

        until(lambda: len(stored()) >= 2 * len(expected))
        rows = stored()
    stored_values = {
        (battery_id, f"{time:%Y-%m-%dT%H:%M:%S}Z", target): value for battery_id, time, target, value, *_ in rows
    }
    assert stored_values.keys() == {(*key, target) for key in expected for target in ("soh", "rul")}
    assert {row[2:] for row in ((*row[:2], row[4], row[5], row[6]) for row in rows)} == {
        ("battery-soh", "2", "challenger"),
        ("battery-rul", "2", "challenger"),
    }
    for (battery_id, when, target), value in stored_values.items():
        assert value != expected[battery_id, when][TARGETS[target].shown.field]["value"]
    assert swap_service.metrics()["shadow_predictions_total"] >= len(stored_values)


@pytest.mark.slow
def test_killed_worker_is_replaced_and_its_gauges_dropped(swap_service: SwapService) -> None:
    before = {name for name in swap_service.metrics() if name.startswith("release_version{")}
    victim = re.search(r'pid="(\d+)"', min(before))
    assert victim is not None
    os.kill(int(victim.group(1)), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        try:
            now = {name for name in swap_service.metrics() if name.startswith("release_version{")}
        except httpx.TransportError:  # the connection was to the killed worker
            continue
        if len(now) == 2 and now != before:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(now & before) == 1
