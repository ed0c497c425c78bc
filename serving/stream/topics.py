"""The topics of the stream, and how they are made where nobody has made them."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from quixstreams.kafka import ConnectionConfig

from telemetry.kafka_client import DEAD_LETTER_TOPIC, PREDICTIONS_TOPIC, TELEMETRY_TOPIC, client_options
from telemetry.settings import Settings

_TIMEOUT_S = 30.0
_BROKERS_DEFAULT = -1
#: A new owner of a battery reads the changelog from its beginning.  Only closed segments are compacted, and Kafka's
#: default of 1 GiB a segment would make that minutes.
_CHANGELOG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(32 * 2**20),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.2",
}

logger = logging.getLogger(__name__)


def changelog(group: str) -> str:
    """The topic in which Quix Streams keeps the states of `group`; its name is theirs."""
    return f"changelog__{group}--{TELEMETRY_TOPIC}--default"


def connection(settings: Settings) -> ConnectionConfig:
    """How the clients of librdkafka reach the brokers of `settings`.

    Raises:
        TwinError: no broker is named, or a user without a password.
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


def ensure_topics(brokers: ConnectionConfig, group: str, partitions: int) -> None:
    """Create the topics that do not exist yet.

    The states lie partition by partition beside the telemetry, so their topic gets as many as that has.

    Raises:
        KafkaException: the brokers cannot be reached or refuse.
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
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # by another scorer, meanwhile
                raise
