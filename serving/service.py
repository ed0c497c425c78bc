"""BentoML service of the prediction API, run by `python -m serving` or `bentoml serve serving.service:BatteryTwin`."""

from __future__ import annotations

import bentoml
from starlette.exceptions import HTTPException

from serving.app import create_app
from serving.release_loader import ReleaseLoader
from serving.request_decoding import RequestLimits
from serving.request_scoring import compile_state_update
from serving.service_metrics import ServiceMetrics
from serving.shadow import ShadowRecorder
from telemetry.settings import Settings

#: Longest time that an inline request may delay the timeouts of others.
_MARGIN_S = 5.0

settings = Settings()
metrics = ServiceMetrics()
loader = ReleaseLoader(settings, metrics.release)
shadow = ShadowRecorder(settings, metrics.shadow)


@bentoml.service(
    name="ev_battery_twin",
    workers=settings.service_workers,
    # Not reached: the application responds earlier, in the contract's form.
    traffic={"timeout": settings.service_timeout_s + _MARGIN_S},
    # Our own metrics cost less for each request and do not have the requested path as a label.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # Spans that are not collected cost more than the four predictions.
    tracing={"excluded_urls": "/predict"},
)
@bentoml.asgi_app(create_app(loader, RequestLimits.of(settings), metrics, shadow, settings.service_timeout_s))
class BatteryTwin:
    """State of health, temperature ahead, remaining useful life and failure probability of EV batteries."""

    def __init__(self) -> None:
        compile_state_update()
        loader.refresh()
        loader.follow()
        if settings.shadow:
            shadow.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Stop the background threads."""
        loader.stop()
        shadow.stop()

    async def __is_ready__(self) -> bool:
        if loader.scorer is None:
            raise HTTPException(503, loader.problem)
        return True
