"""Detects messages that are not on the partition that Kafka's murmur2 partitioner gives their key.

All readings of a battery have to be on one partition, because states are stored by partition.  librdkafka's default
partitioner hashes keys with CRC32, that of Java and kafka-python with murmur2: producers of both kinds put readings of
one battery on two partitions, where each of two states sees a part of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache

from kafka.partitioner import murmur2

#: Keys whose hash is remembered: computing it takes some microseconds.
_REMEMBERED_KEYS = 100_000

logger = logging.getLogger(__name__)


class PartitionCheck:
    """Counts misplaced messages by the present number of partitions.

    Messages that wait since before partitions were added count as misplaced, too: the state of their battery is then on
    another partition than its new readings.

    Attributes:
        partitions: of the telemetry topic, at least 1; to be set when partitions were added.
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._is_logged = False

    def misplaced(self, messages: Iterable[tuple[bytes | None, int]]) -> int:
        """How many of `messages`, pairs of key and partition, are on another partition; without a key none is.

        The first one is logged.
        """
        wrong = [
            (key, partition)
            for key, partition in messages
            if key is not None and _positive_hash(key) % self.partitions != partition
        ]
        if wrong and not self._is_logged:
            self._is_logged = True
            key, partition = wrong[0]
            logger.warning(
                "the message of %r is on partition %d instead of %d of %d: a battery whose readings are on two "
                "partitions has two states; set partitioner=murmur2_random in producers that use librdkafka (counter "
                "scorer_wrong_partition_total, logged once)",
                key[:60].decode("utf-8", errors="replace"),
                partition,
                _positive_hash(key) % self.partitions,
                self.partitions,
            )
        return len(wrong)


@lru_cache(_REMEMBERED_KEYS)
def _positive_hash(key: bytes) -> int:
    """As in the default partitioners of Java and kafka-python."""
    return int(murmur2(key)) & 0x7FFFFFFF
