"""HTTP server for the Prometheus metrics of a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector


@contextmanager
def metrics_server(host: str, port: int, metrics: CollectorRegistry | Collector) -> Iterator[None]:
    """Serve `metrics` at http://host:port/metrics in a thread until the block is left."""
    registry = metrics
    if not isinstance(registry, CollectorRegistry):
        registry = CollectorRegistry()
        registry.register(metrics)
    server, thread = start_http_server(port, host, registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
