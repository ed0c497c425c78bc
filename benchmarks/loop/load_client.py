"""Load client that sends requests to the prediction service continuously and counts failures."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import httpx


@dataclass
class RequestLog:
    """Requests of the load client so far.

    Attributes:
        responses: successful responses by release.
        failures: descriptions of failed requests.
    """

    responses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def send_requests(url: str, stop: threading.Event, log: RequestLog, pause_s: float = 0.1) -> None:
    """Post one reading after another until `stop` is set."""
    battery = {"battery_id": "LOAD-CLIENT", "battery": {"nominal_capacity_ah": 150, "chemistry": "NMC"}}
    reading = {"time": "2026-01-01T00:00:00Z", "voltage": 361.2, "current": 42.0, "temperature": 27.5}
    body = {"batteries": [{**battery, "readings": [reading]}]}
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as client:
        while not stop.wait(pause_s):
            try:
                response = client.post("/predict", json=body)
            except httpx.HTTPError as error:
                log.failures.append(f"{type(error).__name__}: {error}")
                continue
            if response.status_code == httpx.codes.OK:
                log.responses[response.json()["predictions"][0]["release"]] += 1
            else:
                log.failures.append(f"{response.status_code}: {response.text}")
