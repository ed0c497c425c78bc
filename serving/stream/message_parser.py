"""Parses messages of the telemetry topic into readings, or into dead letters with the reason for the rejection."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import numpy as np
import orjson

from features.state_update import IntArray
from serving.batch_scoring import BatchReadings
from serving.request_decoding import readings_matrix
from telemetry.errors import TwinError
from telemetry.schemas.message import FAULTS, TIME_KEY, Fault, MessageError, ParsedMessage, parse_message
from telemetry.schemas.request import ContractRow
from telemetry.wire import rfc3339

RejectionReason = Fault | Literal["too_large", "wrong_key", "future"]
REJECTION_REASONS: tuple[RejectionReason, ...] = (*FAULTS, "too_large", "wrong_key", "future")

#: Maximum length of a rejected message in its dead letter, which has to fit into a topic with the default size limit.
RAW_BYTES = 16 * 2**10
_KEY_BYTES = 256


@dataclass(frozen=True)
class Message:
    """One message of the telemetry topic.

    Attributes:
        value: the content; only its beginning if it is too long (`ParserLimits.cut`).
        size: length of the whole content in bytes.
    """

    key: bytes | None
    value: bytes
    size: int


@dataclass(frozen=True)
class ParserLimits:
    """Limits on the size of a message and on the time of a reading.

    Attributes:
        message_bytes: maximum length of a message.
        future_s: maximum number of seconds that a reading may be ahead of the wall clock.
    """

    message_bytes: int
    future_s: float

    def cut(self, value: bytes) -> bytes:
        """`value`, or its beginning if it is too long, so that the memory of collected messages is bounded."""
        return value if len(value) <= self.message_bytes else value[:RAW_BYTES]


@dataclass(frozen=True)
class DeadLetter:
    """A rejected message with the reason for its rejection."""

    reason: RejectionReason
    sentence: str
    field: str | None
    message: Message

    @property
    def key(self) -> bytes:
        """Key of the dead letter: that of the message, so that messages of one sender stay in one partition."""
        return (self.message.key or b"")[:_KEY_BYTES]

    def encode(self, received_at: datetime) -> bytes:
        """Encode for the dead-letter topic; `size_bytes` is present if `raw` is truncated."""
        raw = self.message.value[:RAW_BYTES]
        dead_letter: dict[str, object] = {
            "reason": self.sentence,
            "field": self.field,
            "received_at": rfc3339(received_at),
            # An invalid byte becomes one character, so that binary content neither fails nor grows.
            "raw": raw.decode("utf-8", errors="replace"),
        }
        if self.message.size > len(raw):
            dead_letter["size_bytes"] = self.message.size
        return orjson.dumps(dead_letter)


@dataclass(frozen=True)
class ParsedReadings:
    """The m readings of a list of messages, in order.

    Attributes:
        batch: the readings, with the batteries in order of their first reading.
        message_index: int64[m], index of each reading's message.
        unknown_fields: number of ignored fields.
        out_of_range: optional values that count as missing, by field.
    """

    batch: BatchReadings
    message_index: IntArray
    unknown_fields: int
    out_of_range: Counter[str]

    def first_indices(self) -> list[int]:
        """Index of each battery's first reading."""
        return [int(i) for i in np.unique(self.batch.battery_row, return_index=True)[1]]


def parse_messages(
    messages: Sequence[Message], limits: ParserLimits, now: datetime
) -> tuple[ParsedReadings, list[DeadLetter]]:
    """Parse `messages` into readings and dead letters.

    Args:
        now: current wall-clock time, timezone-aware.
    """
    latest_s = now.timestamp() + limits.future_s
    rows: list[ContractRow] = []
    message_index: list[int] = []
    dead_letters: list[DeadLetter] = []
    index: dict[str, int] = {}
    battery_row: list[int] = []
    unknown_fields = 0
    out_of_range: Counter[str] = Counter()
    for i, message in enumerate(messages):
        try:
            parsed = _parse(message, limits, latest_s)
        except _RejectedError as error:
            dead_letters.append(DeadLetter(error.reason, error.sentence, error.field, message))
            continue
        unknown_fields += len(parsed.unknown)
        out_of_range.update(parsed.out_of_range)
        rows.append(parsed.reading)
        message_index.append(i)
        battery_id = cast(Any, parsed.reading).battery_id
        battery_row.append(index.setdefault(battery_id, len(index)))
    batch = BatchReadings(
        battery_ids=list(index),
        battery_row=np.array(battery_row, dtype=np.int64),
        matrix=readings_matrix(rows),
        soh=np.array([vars(row)["soh"] for row in rows], dtype=np.float64),
        rows_where=lambda mask: [vars(row) for row in itertools.compress(rows, mask.tolist())],
    )
    index_of = np.array(message_index, dtype=np.int64)
    return ParsedReadings(batch, index_of, unknown_fields, out_of_range), dead_letters


def count_by_reason(dead_letters: Sequence[DeadLetter]) -> Counter[RejectionReason]:
    """Number of dead letters for each reason."""
    return Counter(dead_letter.reason for dead_letter in dead_letters)


class _RejectedError(TwinError):
    def __init__(self, reason: RejectionReason, sentence: str, field: str | None) -> None:
        super().__init__(sentence, field=field)
        self.reason = reason


def _parse(message: Message, limits: ParserLimits, latest_s: float) -> ParsedMessage:
    if message.size > limits.message_bytes:
        raise _RejectedError(
            "too_large",
            f"the message has {message.size} bytes: a reading has at most {limits.message_bytes}",
            None,
        )
    try:
        parsed = parse_message(message.value)
    except MessageError as error:
        raise _RejectedError(error.fault, error.sentence, error.field) from error
    reading = cast(Any, parsed.reading)
    battery_id, time = cast(str, reading.battery_id), cast(datetime, reading.time)
    if message.key != battery_id.encode():
        # States are stored by message key: with different keys a battery would have two states, each with a part of
        # its readings.
        raise _RejectedError(
            "wrong_key",
            f"the message key is {_key_text(message.key)} and battery_id is {battery_id!r}: they have to be equal",
            "battery_id",
        )
    if time.timestamp() > latest_s:
        raise _RejectedError(
            "future",
            f"{TIME_KEY} is {time.isoformat()}, more than {limits.future_s:g} s (TWIN_MAX_FUTURE_S) in the future: "
            "correct the battery's clock",
            TIME_KEY,
        )
    return parsed


def _key_text(key: bytes | None) -> str:
    return "absent" if key is None else repr(key[:60].decode("utf-8", errors="replace"))
