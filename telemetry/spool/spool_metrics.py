"""Prometheus metrics of a spool and of what is delivered from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from telemetry.spool.delivery import Delivery
from telemetry.spool.spool import Spool


def spool_metrics(spool: Spool, deliveries: Sequence[Delivery]) -> Iterator[Metric]:
    """What waits for each consumer and how delivering goes, now."""
    depth = GaugeMetricFamily("spool_depth", "rows that wait", labels=["consumer"])
    waiting_bytes = GaugeMetricFamily("spool_waiting_bytes", "bytes of the rows that wait", labels=["consumer"])
    age = GaugeMetricFamily("spool_oldest_age_seconds", "how long the oldest row has waited", labels=["consumer"])
    # The same as a share of what is kept in rows, under the name that people know.
    readings = GaugeMetricFamily("live_waiting_readings", "readings not acknowledged by the sink yet", labels=["sink"])
    for consumer in spool.consumers:
        waiting = spool.depth(consumer)
        depth.add_metric([consumer], waiting.entries)
        waiting_bytes.add_metric([consumer], waiting.bytes)
        age.add_metric([consumer], waiting.oldest_s)
        readings.add_metric([consumer], waiting.readings)
    delivered = CounterMetricFamily("spool_delivered", "rows dealt with", labels=["consumer"])
    failures = CounterMetricFamily("spool_failures", "attempts that had to be repeated", labels=["consumer"])
    set_aside = CounterMetricFamily("spool_set_aside", "rows that were refused and set aside", labels=["consumer"])
    for delivery in deliveries:
        delivered.add_metric([delivery.consumer], delivery.delivered)
        failures.add_metric([delivery.consumer], delivery.failures)
        set_aside.add_metric([delivery.consumer], delivery.refused)
    yield from (depth, waiting_bytes, age, readings, delivered, failures, set_aside)
    yield GaugeMetricFamily("spool_used_bytes", "bytes of the file that are in use", value=spool.used_bytes())
    yield GaugeMetricFamily(
        "spool_producers_max_bytes", "bytes in use above which readings are refused", value=spool.producers_max_bytes
    )
    yield GaugeMetricFamily("spool_max_bytes", "bytes that the file and its log may take", value=spool.max_bytes)
