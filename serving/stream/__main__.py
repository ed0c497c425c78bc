"""`python -m serving.stream`: the stream scorer, until it is stopped.

Waits for the champion, the brokers and the store, and comes back by itself when one of them was away.
"""

from __future__ import annotations

import logging
import signal
import sys
import time

from confluent_kafka import KafkaException
from quixstreams.exceptions import QuixException

from serving.champion import Champion
from serving.service_metrics import ReleaseMetrics
from serving.stream.app import run_stream
from serving.stream.scorer_metrics import StreamMetrics, metrics_server
from serving.stream.topics import connection
from telemetry.embedded.ports import free_port
from telemetry.errors import TwinError
from telemetry.settings import Settings

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 10.0
#: After so long without trouble the next trouble is a new one.
_CALM_S = 60.0

logger = logging.getLogger("serving.stream")


def main() -> int:
    """Score; 0 when stopped, 2 if the settings are not such that it could begin."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    metrics = StreamMetrics()
    try:
        connection(settings)
        port = free_port(settings.host, settings.scorer_metrics_port)
        with metrics_server(settings.host, port, metrics):
            logger.info("metrics on http://%s:%d/metrics", settings.host, port)
            _run(settings, metrics)
    except TwinError as error:
        print(error.sentence, file=sys.stderr)
        return 2
    return 0


def _run(settings: Settings, metrics: StreamMetrics) -> None:
    releases = Champion(settings, ReleaseMetrics(metrics.registry))
    _wait_for_one(releases, settings.registry_poll_s)
    releases.follow()
    retry_s = _FIRST_RETRY_S
    while True:
        began = time.monotonic()
        try:
            return run_stream(settings, releases, metrics)
        except (QuixException, KafkaException, RuntimeError) as error:  # of Quix Streams, librdkafka and its recovery
            if time.monotonic() - began > _CALM_S:
                retry_s = _FIRST_RETRY_S
            logger.error("the stream ended and is built anew in %g s: %r", retry_s, error)
        finally:
            # Quix Streams leaves handlers behind that only stop what has ended.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
        metrics.restarts.inc()
        time.sleep(retry_s)
        retry_s = min(retry_s * 2, _LONGEST_RETRY_S)


def _wait_for_one(releases: Champion, pause_s: float) -> None:
    told = None
    releases.refresh()
    while releases.scorer is None:
        if releases.problem != told:
            told = releases.problem
            logger.warning("waiting: %s", told)
        time.sleep(pause_s)
        releases.refresh()


if __name__ == "__main__":
    sys.exit(main())
