"""Command `python -m serving.stream`: runs the stream scorer and restarts it after Kafka errors.

Waits for the champion, the brokers and the store, and retries while one of them is unavailable.
"""

from __future__ import annotations

import logging
import signal
import sys
import time

from confluent_kafka import KafkaException
from quixstreams.exceptions import QuixException

from serving.release_loader import ReleaseLoader
from serving.service_metrics import ReleaseMetrics
from serving.stream.app import run_stream
from serving.stream.scorer_metrics import StreamMetrics
from serving.stream.topics import broker_config
from telemetry.backoff import backoff
from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError
from telemetry.metrics_server import metrics_server
from telemetry.settings import Settings

_MIN_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 10.0
#: The backoff is reset after this time without an error.
_BACKOFF_RESET_S = 60.0

logger = logging.getLogger("serving.stream")


def main() -> int:
    """Run until stopped; returns 0, or 2 with an error message if the settings are invalid."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    metrics = StreamMetrics()
    try:
        broker_config(settings)
        port = free_port(settings.host, settings.scorer_metrics_port)
        with metrics_server(settings.host, port, metrics.registry):
            logger.info("metrics on http://%s:%d/metrics", settings.host, port)
            _run(settings, metrics)
    except TwinError as error:
        print(error.sentence, file=sys.stderr)
        return 2
    return 0


def _run(settings: Settings, metrics: StreamMetrics) -> None:
    loader = ReleaseLoader(settings, ReleaseMetrics(metrics.registry))
    _wait_for_release(loader, settings.registry_poll_s)
    loader.follow()
    pauses_s = backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
    while True:
        began = time.monotonic()
        try:
            return run_stream(settings, loader, metrics)
        except (QuixException, KafkaException, RuntimeError) as error:  # of Quix Streams, librdkafka and its recovery
            if time.monotonic() - began > _BACKOFF_RESET_S:
                pauses_s = backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
            pause_s = next(pauses_s)
            logger.error("the stream failed and is restarted in %g s: %r", pause_s, error)
        finally:
            # Quix Streams leaves its signal handlers installed, which would only stop the ended application.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
        metrics.restarts.inc()
        time.sleep(pause_s)


def _wait_for_release(loader: ReleaseLoader, poll_s: float) -> None:
    logged = None
    loader.refresh()
    while loader.scorer is None:
        if loader.problem != logged:
            logged = loader.problem
            logger.warning("waiting: %s", logged)
        time.sleep(poll_s)
        loader.refresh()


if __name__ == "__main__":
    sys.exit(main())
