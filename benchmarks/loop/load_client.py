"""A client that keeps asking the prediction service and counts what was not answered."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import httpx


@dataclass
class Calls:
    """What the client saw so far.

    Attributes:
        answered: answers by the release that gave them.
        failures: sentences of what was no answer.
    """

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def keep_calling(url: str, stop: threading.Event, calls: Calls, pause_s: float = 0.1) -> None:
    """Post one reading after another until `stop` is set."""
    battery = {"battery_id": "CALLER", "battery": {"nominal_capacity_ah": 150, "chemistry": "NMC"}}
    reading = {"time": "2026-01-01T00:00:00Z", "voltage": 361.2, "current": 42.0, "temperature": 27.5}
    body = {"batteries": [{**battery, "readings": [reading]}]}
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as client:
        while not stop.wait(pause_s):
            try:
                answer = client.post("/predict", json=body)
            except httpx.HTTPError as error:
                calls.failures.append(f"{type(error).__name__}: {error}")
                continue
            if answer.status_code == httpx.codes.OK:
                calls.answered[answer.json()["predictions"][0]["release"]] += 1
            else:
                calls.failures.append(f"{answer.status_code}: {answer.text}")
