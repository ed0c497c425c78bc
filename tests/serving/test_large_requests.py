"""Requests that are large, slow, compressed or abandoned, over real HTTP: none of them holds up or ends the service."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvicorn

from serving.app import create_app
from serving.feature_snapshots import FeatureSnapshots
from serving.predictor import Predictor, TargetValues
from serving.release_loader import ReleaseLoader
from serving.request_body import gunzip
from serving.request_decoding import RequestError, RequestLimits
from serving.response import ErrorResponse
from serving.scorer import Scorer
from serving.service_metrics import ServiceMetrics
from serving.shadow import ShadowRecorder
from telemetry.settings import Settings
from tests.serving.conftest import HOST, serve
from training.release import LoadedRelease

Battery = Callable[..., dict[str, Any]]
TIMEOUT_S = 0.6
LIMIT = 4_000_000


class HeldPredictor(Predictor):
    """A predictor that waits with large requests until `gate` is set, and fails if `fails`."""

    def __init__(self, loaded: LoadedRelease) -> None:
        super().__init__(loaded)
        self.gate = threading.Event()
        self.started = threading.Event()
        self.fails = False

    def predict_snapshots(
        self, snapshots: FeatureSnapshots, *, with_reasons: bool = False
    ) -> Mapping[str, TargetValues]:
        if self.fails:
            raise ZeroDivisionError
        if len(snapshots) > 1:
            self.started.set()
            self.gate.wait(60)
        return super().predict_snapshots(snapshots, with_reasons=with_reasons)


class Held:
    """The application with a `HeldPredictor`, served by uvicorn in a thread."""

    def __init__(self, release: LoadedRelease) -> None:
        self.predictor = HeldPredictor(release)
        self.metrics = ServiceMetrics()
        settings = Settings()
        self.loader = ReleaseLoader(settings, self.metrics.release)
        self.loader.scorer = Scorer(self.predictor)
        shadow = ShadowRecorder(settings, self.metrics.shadow)
        app = create_app(self.loader, RequestLimits(10_000, 100_000, LIMIT), self.metrics, shadow, TIMEOUT_S)
        self.listener = socket.create_server((HOST, 0))
        self.port = self.listener.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def post(self, body: bytes, **headers: str) -> httpx.Response:
        return httpx.post(f"http://{HOST}:{self.port}/predict", content=body, headers=headers, timeout=30)

    def send(self, sent: bytes, length: int) -> socket.socket:
        """A connection on which a request with a body of `length` bytes was begun with the bytes `sent`."""
        connection = socket.create_connection((HOST, self.port))
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + sent)
        return connection

    def counted(self, name: str) -> float:
        match = re.search(rf"^{re.escape(name)} (\S+)$", self.metrics.exposition().decode(), re.MULTILINE)
        return float(match[1]) if match else 0.0

    def wait_for(self, name: str, value: float) -> None:
        deadline = time.monotonic() + 30
        while self.counted(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.counted(name)}"
            time.sleep(0.02)


@pytest.fixture
def held(release: LoadedRelease, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    held = Held(release)
    held.thread.start()
    yield held
    held.predictor.gate.set()
    held.server.should_exit = True
    held.thread.join()
    held.listener.close()


def body_of(*batteries: dict[str, Any], **more: object) -> bytes:
    return json.dumps({"batteries": batteries, **more}).encode()


@pytest.fixture
def small(battery: Battery) -> bytes:
    return body_of(battery())


@pytest.fixture
def large(battery: Battery) -> bytes:
    body = body_of(*(battery(f"B{i}", readings=range(40)) for i in range(20)))
    assert len(body) > 64 * 1024
    return body


def error_in(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return ErrorResponse.model_validate_json(response.content).error


def test_request_that_times_out_is_answered_with_503_and_counted(held: Held, small: bytes, large: bytes) -> None:
    with ThreadPoolExecutor() as pool:
        running = pool.submit(held.post, large)
        assert held.predictor.started.wait(30)
        queued = pool.submit(held.post, large)
        assert held.post(small).status_code == 200, "small requests do not wait"
        assert "took longer than" in error_in(running.result(), 503)
        assert "is busy with other large requests" in error_in(queued.result(), 503)
        for response in (running.result(), queued.result()):
            assert int(response.headers["Retry-After"]) >= 1
            assert response.json() == {"error": response.json()["error"], "field": None, "value": None}
    assert held.counted('requests_refused_total{status="503"}') == 2
    held.predictor.gate.set()
    response = held.post(large)
    assert response.status_code == 200
    assert len(response.json()["predictions"]) == 20
    assert held.counted('predictions_total{target="temperature"}') == 21, "nothing of what timed out"


def test_request_without_a_client_is_stopped_and_counted(held: Held, small: bytes, large: bytes) -> None:
    running = held.send(large, len(large))
    assert held.predictor.started.wait(30)
    queued = held.send(large, len(large))
    sending = held.send(large[:1000], len(large))
    time.sleep(0.1)
    for connection in (queued, sending, running):
        connection.close()
    held.wait_for("requests_abandoned_total", 3)
    held.predictor.gate.set()
    assert held.post(large).status_code == 200
    assert held.counted('predictions_total{target="temperature"}') == 20
    for status in ("500", "503"):
        assert held.counted(f'requests_refused_total{{status="{status}"}}') == 0


def test_body_that_does_not_arrive_is_refused_with_408(held: Held, small: bytes) -> None:
    with held.send(small[:100], len(small)) as connection:
        received = b""
        while part := connection.recv(4096):
            received += part
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.6 s" in content
    assert held.counted('requests_refused_total{status="408"}') == 1


def test_every_failure_is_counted(held: Held, small: bytes, large: bytes) -> None:
    assert held.counted('requests_refused_total{status="500"}') == 0
    held.predictor.fails = True
    for body in (small, large):
        assert "internal error" in error_in(held.post(body), 500)
    assert held.counted('requests_refused_total{status="500"}') == 2


def test_missing_release_is_counted(held: Held, small: bytes) -> None:
    held.loader.scorer = None
    response = held.post(small)
    assert "is being loaded" in error_in(response, 503)
    assert response.headers["Retry-After"] == "5"
    assert held.counted('requests_refused_total{status="503"}') == 1


def test_timeout_has_the_contracts_form_behind_bentoml(registry: Settings, battery: Battery, small: bytes) -> None:
    """Negative control: with BentoML's own timeout the response is 504 without field and value, and not counted."""
    history = battery(readings=range(70_000))
    with serve(
        registry, 1, "/readyz", TWIN_SERVICE_TIMEOUT_S="0.6", TWIN_SERVICE_MAX_ROWS="100000",
        TWIN_SERVICE_MAX_BODY_BYTES=str(2**26),
    ) as client:  # fmt: skip
        response = client.post("/predict", content=body_of(history, every_reading=True))
        assert "took longer than" in error_in(response, 503)
        assert "Retry-After" in response.headers
        assert client.post("/predict", content=small).status_code == 200
        assert 'requests_refused_total{status="503"} 1.0' in client.get("/metrics").text


GZIP = {"content-encoding": "gzip"}


def test_gzip_bodies_are_read(service: httpx.Client, small: bytes, large: bytes) -> None:
    for body in (small, large):
        plain = service.post("/predict", content=body).json()
        half = len(body) // 2
        members = gzip.compress(body[:half]) + gzip.compress(body[half:])
        for sent in (gzip.compress(body), members):
            assert service.post("/predict", content=sent, headers=GZIP).json() == plain
        assert service.post("/predict", content=body, headers={"content-encoding": "identity"}).json() == plain


def test_invalid_encodings_are_refused_by_name(service: httpx.Client, small: bytes) -> None:
    for sent in (small, b"", gzip.compress(small)[:-9], gzip.compress(small) + b"more", b"\x1f\x8b"):
        assert "content-encoding gzip" in error_in(service.post("/predict", content=sent, headers=GZIP), 400)
    for encoding in ("br", "deflate", "gzip, gzip", "zstd"):
        response = service.post("/predict", content=small, headers={"content-encoding": encoding})
        assert repr(encoding) in error_in(response, 415)
        assert response.json()["value"] == encoding
        assert response.headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("size", [1_000_001, 100_000_000])
def test_gzip_bodies_are_limited_after_decompression(service: httpx.Client, size: int) -> None:
    bomb = gzip.compress(b" " * size)
    assert len(bomb) < 200_000
    assert "1000000 bytes, uncompressed" in error_in(service.post("/predict", content=bomb, headers=GZIP), 413)


def test_decompression_uses_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(bytes(200_000_000))
    tracemalloc.start()
    try:
        assert gunzip(bomb, 1_000_000) is None
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert gunzip(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000
    assert gunzip(gzip.compress(b"x" * 1001), 1000) is None
    with pytest.raises(RequestError, match="is not gzip"):
        gunzip(zlib.compress(b"{}"), 1000)
