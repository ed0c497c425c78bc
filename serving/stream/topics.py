"""Connection settings of the Kafka brokers, and creation of the topics of the stream scorer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from quixstreams.kafka import ConnectionConfig

from telemetry.kafka_client import DEAD_LETTER_TOPIC, PREDICTIONS_TOPIC, TELEMETRY_TOPIC, client_options
from telemetry.settings import Settings

_TIMEOUT_S = 30.0
_BROKERS_DEFAULT = -1
#: A new owner of a partition reads the changelog from its beginning.  Only closed segments are compacted: with Kafka's
#: default segment size of 1 GiB that would take minutes.
_CHANGELOG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(32 * 2**20),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.2",
}

logger = logging.getLogger(__name__)


def changelog(group: str) -> str:
    """Name that Quix Streams gives to the changelog topic with the states of `group`."""
    return f"changelog__{group}--{TELEMETRY_TOPIC}--default"


def broker_config(settings: Settings) -> ConnectionConfig:
    """Connection settings of librdkafka clients for the brokers in `settings`.

    Raises:
        TwinError: no brokers are configured, or a user without a password.
    """
    options = client_options(settings)
    return ConnectionConfig(
        bootstrap_servers=",".join(options["bootstrap_servers"]),
        security_protocol=options["security_protocol"],
        ssl_ca_location=options.get("ssl_cafile"),
        sasl_mechanism=options.get("sasl_mechanism"),
        sasl_username=options.get("sasl_plain_username"),
        sasl_password=options.get("sasl_plain_password"),
    )


def partition_statistics(statistics: str) -> Mapping[str, Mapping[str, Any]]:
    """By number, what the consumer's statistics (JSON of librdkafka) tell about each partition of the telemetry topic.

    Empty while none is assigned; otherwise also those of other consumers, as librdkafka knows the topic's metadata.
    """
    partitions = json.loads(statistics).get("topics", {}).get(TELEMETRY_TOPIC, {}).get("partitions", {})
    return {number: about for number, about in partitions.items() if number != "-1"}  # -1: not a partition


def ensure_topics(brokers: ConnectionConfig, group: str, partitions: int) -> int:
    """Create the missing topics; the number of partitions of the telemetry topic.

    The changelog gets as many partitions as the telemetry topic, because states are partitioned like the readings.

    Raises:
        KafkaException: the brokers are unavailable or reject a topic.
    """
    admin = AdminClient(brokers.as_librdkafka_dict())
    existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    if TELEMETRY_TOPIC in existing:
        partitions = len(existing[TELEMETRY_TOPIC].partitions)
    wanted = {TELEMETRY_TOPIC: {}, PREDICTIONS_TOPIC: {}, DEAD_LETTER_TOPIC: {}, changelog(group): _CHANGELOG}
    new = [
        NewTopic(name, partitions, _BROKERS_DEFAULT, config=config)
        for name, config in wanted.items()
        if name not in existing
    ]
    for name, created in (admin.create_topics(new, request_timeout=_TIMEOUT_S) if new else {}).items():
        try:
            created.result()
            logger.info("topic %s created", name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # created by another scorer in the meantime
                raise
    return partitions
