"""Prometheus metrics of a spool and its deliveries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from telemetry.spool.delivery import Delivery
from telemetry.spool.spool import Spool


def spool_metrics(spool: Spool, deliveries: Sequence[Delivery]) -> Iterator[Metric]:
    """Current backlog and delivery counts of each consumer, and the used space."""
    depth = GaugeMetricFamily("spool_depth", "undelivered rows", labels=["consumer"])
    waiting_bytes = GaugeMetricFamily("spool_waiting_bytes", "bytes of the undelivered rows", labels=["consumer"])
    age = GaugeMetricFamily("spool_oldest_age_seconds", "age of the oldest undelivered row", labels=["consumer"])
    # The readings among these rows, under the metric name of earlier versions.
    readings = GaugeMetricFamily("live_waiting_readings", "readings not acknowledged by the sink yet", labels=["sink"])
    for consumer in spool.consumers:
        waiting = spool.depth(consumer)
        depth.add_metric([consumer], waiting.entries)
        waiting_bytes.add_metric([consumer], waiting.bytes)
        age.add_metric([consumer], waiting.oldest_s)
        readings.add_metric([consumer], waiting.readings)
    delivered = CounterMetricFamily("spool_delivered", "delivered rows", labels=["consumer"])
    failures = CounterMetricFamily("spool_failures", "failed attempts, which are retried", labels=["consumer"])
    quarantined = CounterMetricFamily("spool_set_aside", "refused rows, which are quarantined", labels=["consumer"])
    for delivery in deliveries:
        delivered.add_metric([delivery.consumer], delivery.delivered)
        failures.add_metric([delivery.consumer], delivery.failures)
        quarantined.add_metric([delivery.consumer], delivery.refused)
    yield from (depth, waiting_bytes, age, readings, delivered, failures, quarantined)
    yield GaugeMetricFamily("spool_used_bytes", "bytes in use in the spool file", value=spool.used_bytes())
    yield GaugeMetricFamily(
        "spool_producers_max_bytes", "bytes in use above which readings are refused", value=spool.producers_max_bytes
    )
    yield GaugeMetricFamily(
        "spool_max_bytes", "limit for the spool file, its log and the disk reserve", value=spool.max_bytes
    )
