"""The BentoML service: `bentoml serve serving.service:BatteryTwin`, or `python -m serving` with our settings."""

from __future__ import annotations

import bentoml
from starlette.exceptions import HTTPException

from serving.app import create_app
from serving.champion import Champion
from serving.garbage_collection import quieten
from serving.request_decoding import Limits
from serving.request_scoring import compile_state_update
from serving.service_metrics import Metrics
from serving.shadow import ShadowRecorder
from telemetry.settings import Settings

settings = Settings()
metrics = Metrics()
champion = Champion(settings, metrics.release)
shadow = ShadowRecorder(settings, metrics.shadow)


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
@bentoml.asgi_app(create_app(champion, Limits.of(settings), metrics, shadow))
class BatteryTwin:
    """State of health, temperature ahead, remaining useful life and failure probability of EV batteries."""

    def __init__(self) -> None:
        compile_state_update()
        champion.refresh()
        quieten()
        champion.follow()
        if settings.shadow:
            shadow.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Let go of what runs beside the requests."""
        champion.stop()
        shadow.stop()

    async def __is_ready__(self) -> bool:
        if champion.scorer is None:
            raise HTTPException(503, champion.problem)
        return True
