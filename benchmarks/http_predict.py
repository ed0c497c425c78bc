"""Benchmark of `POST /predict` over HTTP: one worker of the service, against a minimal FastAPI application.

    python -m benchmarks.http_predict            # models/ of this workspace

Needs `wrk` (Debian's package of that name).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.http_bodies import entries_with_state, fleet_body, history_body, single_bodies
from features.targets import TARGET_NAMES
from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError
from telemetry.settings import USAGE_STATISTICS_OFF, Settings
from training.mlflow_client import experiment_id
from training.params import MODELS
from training.registry.promotion import publish_release
from training.registry.registry_store import RegistryStore
from training.release import CONTENT_TAG, content_sha256
from training.tracking import MODEL_FOLDER

_HOST = "127.0.0.1"
_ROOT = Path(__file__).resolve().parents[1]
_LUA = Path(__file__).with_name("wrk.lua")
_READY_S = 180.0
_CONNECTIONS = 8
_BATCH = 1000
_GROWTH = (10, 100, 1000)


@dataclass(frozen=True)
class LoadResult:
    """Measurement of `wrk` over all connections."""

    requests_per_s: float
    p99_ms: float
    max_ms: float


def http_predict(models: Path, seconds: int = 10, long_seconds: int = 60) -> list[dict[str, Any]]:
    """Requests and rows per second and the 99th percentile of latency, with one worker each.

    Args:
        seconds: duration of each measurement; `long_seconds` of the one of the longest pause.

    Raises:
        TwinError: `wrk` is not installed, a server is not ready in time, or a request failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with _service(models, folder) as service, _bare(models, folder) as bare:
            with httpx.Client(base_url=service, timeout=60) as client:
                entries = entries_with_state(client, max(_GROWTH))
            fleets = {size: single_bodies(entries[:size]) for size in _GROWTH}
            # Interleaved, so that other load on this machine affects both.
            rounds = [
                (load(service, fleets[10], folder, seconds), load(bare, fleets[10], folder, seconds)) for _ in range(3)
            ]
            ours, peer = sorted(rounds, key=lambda both: both[0].requests_per_s / both[1].requests_per_s)[1]
            long = load(service, fleets[10], folder, long_seconds)
            grown = {size: load(service, bodies, folder, seconds) for size, bodies in fleets.items()}
            bodies_of = {
                "http_predict_batch": history_body(entries[0], _BATCH, every_reading=False),
                "http_predict_batch_every_reading": history_body(entries[0], _BATCH, every_reading=True),
                "http_predict_batch_of_batteries": fleet_body(entries[:_BATCH]),
            }
            batches = {name: load(service, [body], folder, seconds) for name, body in bodies_of.items()}
    bare_name = "bare FastAPI, the same ONNX call"
    measurements = [
        _measurement("http_predict", ours.requests_per_s, "requests/s", bare_name, peer.requests_per_s),
        _measurement("http_predict_p99", long.p99_ms, "ms", bare_name, peer.p99_ms),
        _measurement("http_predict_longest", long.max_ms, "ms", bare_name, peer.max_ms),
    ]
    for size, found in grown.items():
        measurements.append(
            _measurement(
                f"http_predict_{size}_batteries",
                found.requests_per_s,
                "requests/s",
                f"{_GROWTH[0]} batteries",
                grown[_GROWTH[0]].requests_per_s,
            )
        )
    for name, found in batches.items():
        rows = found.requests_per_s * _BATCH
        measurements.append(_measurement(name, rows, "rows/s", "one reading a request", ours.requests_per_s))
    return measurements


def load(url: str, bodies: Sequence[bytes], folder: Path, seconds: int, connections: int = _CONNECTIONS) -> LoadResult:
    """Post `bodies` in turn for `seconds`, after a short warm-up.

    Raises:
        TwinError: `wrk` is not installed, or a request failed.
    """
    program = shutil.which("wrk")
    if program is None:
        raise TwinError("wrk is not installed: install Debian's package wrk", field="wrk")
    file = folder / "bodies"
    file.write_bytes(b"\n".join(bodies))
    command = [program, "--threads", "1", "--connections", str(connections), "--timeout", "10s", "--script", str(_LUA)]
    for duration in (2, seconds):
        done = subprocess.run(
            [*command, "--duration", f"{duration}s", f"{url}/predict"],
            env=os.environ | {"BODIES": str(file)},
            capture_output=True,
            text=True,
            timeout=duration + 60,
            check=True,
        )
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    if measured["failed"]:
        raise TwinError(f"{measured['failed']} of {measured['requests']} requests to {url} failed", field="failed")
    return LoadResult(measured["requests"] / measured["seconds"], measured["p99_ms"], measured["max_ms"])


@contextmanager
def _service(models: Path, folder: Path) -> Iterator[str]:
    settings = Settings(var=folder / "var")
    settings.var.mkdir()
    release(models, settings)
    port = free_port(_HOST, 33_100)
    environment = {"TWIN_VAR": str(settings.var), "TWIN_SERVICE_PORT": str(port), "TWIN_SERVICE_WORKERS": "1"}
    url = f"http://{_HOST}:{port}"
    with _running([sys.executable, "-m", "serving"], environment, folder / "service.log", f"{url}/readyz"):
        yield url


@contextmanager
def _bare(models: Path, folder: Path) -> Iterator[str]:
    port = free_port(_HOST, 33_200)
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.bare_app:create_app"]
    command += ["--host", _HOST, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    url = f"http://{_HOST}:{port}"
    environment = {"BENCHMARK_MODELS": str(models.resolve())}
    with _running(command, environment, folder / "bare.log", f"{url}/openapi.json"):
        yield url


def release(models: Path, settings: Settings) -> None:
    """Register the models in `models/<target>/` as champion of an empty registry, without the promotion gate."""
    store = RegistryStore.open(settings, settings.domain)
    experiment = experiment_id(store.client, settings, settings.domain)
    versions = {}
    for target in TARGET_NAMES:
        if not (models / target / "model.onnx").exists():
            continue
        run_id = store.client.create_run(experiment).info.run_id
        for file in ("model.onnx", "fit.json"):
            store.client.log_artifact(run_id, str(models / target / file), MODEL_FOLDER)
        tags = {CONTENT_TAG: content_sha256(models / target)}
        versions[target] = store.add_version(target, run_id, tags, "of a benchmark")
    publish_release(store, versions, kind="promote", reason="a benchmark", by="the benchmark")


@contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str], log: Path, ready: str) -> Iterator[None]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, **USAGE_STATISTICS_OFF, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            _wait(process, ready, log)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(ready, timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise TwinError(f"{ready} is not ready; its log ends with:\n{log.read_text()[-2000:]}", field="ready")


def _measurement(name: str, value: float, unit: str, peer: str, peer_value: float) -> dict[str, Any]:
    ratio = value / peer_value
    return {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--long-seconds", type=int, default=60)
    arguments = parser.parse_args()
    for measurement in http_predict(arguments.models, arguments.seconds, arguments.long_seconds):
        sys.stdout.write(json.dumps(measurement) + "\n")


if __name__ == "__main__":
    main()
