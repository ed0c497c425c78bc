"""The BentoML service: `bentoml serve serving.service:BatteryTwin`, or `python -m serving` with our settings."""

from __future__ import annotations

import gc

import bentoml
from starlette.exceptions import HTTPException

from data.settings import Settings
from serving.app import create_app
from serving.champion import Champion
from serving.decode import Limits
from serving.metrics import Metrics

settings = Settings()
champion = Champion()


@bentoml.service(
    name="ev_battery_twin",
    workers=settings.service_workers,
    traffic={"timeout": 10},
    # Ours cost less on every request, and label no metric by whatever path somebody asks for.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # Spans that nothing collects cost more than the four predictions.
    tracing={"excluded_urls": "/predict"},
)
@bentoml.asgi_app(create_app(champion, Limits.of(settings), Metrics()))
class BatteryTwin:
    """State of health, temperature ahead, remaining useful life and failure probability of EV batteries."""

    def __init__(self) -> None:
        champion.load(settings)
        _quieten_garbage_collector()

    async def __is_ready__(self) -> bool:
        if champion.predictor is None:
            raise HTTPException(503, champion.problem)
        return True


def _quieten_garbage_collector() -> None:
    """Leave what was loaded out of every collection: scanning it took 300 ms of a request now and then."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
