"""Messages as they come, and what becomes of them: readings, or dead letters with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

import numpy as np
import orjson

from features.state import FloatArray
from features.state_update import BoolArray, IntArray
from serving.request_decoding import readings_matrix
from telemetry.errors import TwinError
from telemetry.schemas.message import FAULTS, TIME_KEY, Fault, MessageError, parse
from telemetry.schemas.request import Row
from telemetry.wire import rfc3339

Reason = Fault | Literal["too_large", "wrong_key", "future"]
REASONS: tuple[Reason, ...] = (*FAULTS, "too_large", "wrong_key", "future")

#: Times outside of these years cannot be carried everywhere, with a zone or a forecast's horizon added.
_FIRST_S = 0.0
_LAST_S = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
#: What a dead letter keeps of a message at most: it has to fit into a topic with the broker's default limit.
KEPT_BYTES = 16 * 2**10
_KEPT_KEY_BYTES = 256


@dataclass(frozen=True)
class Message:
    """One message of the telemetry topic.

    Attributes:
        value: its content; of one longer than allowed only the beginning (`Limits.cut`).
        size: bytes that the content had.
    """

    key: bytes | None
    value: bytes
    size: int


@dataclass(frozen=True)
class Limits:
    """What is refused whatever it says.

    Attributes:
        message_bytes: a longer message is no reading.
        future_s: how far ahead of the wall clock a reading may be, in seconds.
    """

    message_bytes: int
    future_s: float

    def cut(self, value: bytes) -> bytes:
        """`value`, or its beginning where it is too long, so that what waits for a checkpoint stays bounded."""
        return value if len(value) <= self.message_bytes else value[:KEPT_BYTES]


@dataclass(frozen=True)
class DeadLetter:
    """A message that is no reading."""

    reason: Reason
    sentence: str
    field: str | None
    message: Message

    @property
    def key(self) -> bytes:
        """Under which it is sent: that of the message, so that what one sender does stays together."""
        return (self.message.key or b"")[:_KEPT_KEY_BYTES]

    def encode(self, received_at: datetime) -> bytes:
        """As it goes to the dead-letter topic; `size_bytes` is there where `raw` is cut."""
        raw = self.message.value[:KEPT_BYTES]
        letter: dict[str, object] = {
            "reason": self.sentence,
            "field": self.field,
            "received_at": rfc3339(received_at),
            # Every byte has its place, so that binary rubbish neither fails nor grows.
            "raw": raw.decode("utf-8", errors="replace"),
        }
        if self.message.size > len(raw):
            letter["size_bytes"] = self.message.size
        return orjson.dumps(letter)


@dataclass(frozen=True)
class Readings:
    """The readings among n messages, in order.

    Attributes:
        rows: `Reading`s of the contract.
        place: int64[m], which of the messages each was.
        battery_ids: of the batteries in it, in order of their first reading.
        battery_row: int64[m], which of `battery_ids` each reading is of.
        matrix: float64[m, len(READING_INPUTS)], for the fold.
        unknown_fields: how many fields were ignored.
    """

    rows: Sequence[Row]
    place: IntArray
    battery_ids: Sequence[str]
    battery_row: IntArray
    matrix: FloatArray
    unknown_fields: int

    def __len__(self) -> int:
        return len(self.rows)

    def first_of(self) -> list[int]:
        """Which reading is the first of each battery."""
        return [int(i) for i in np.unique(self.battery_row, return_index=True)[1]]

    def where(self, mask: BoolArray) -> list[Row]:
        """The rows at which `mask`, bool[m], holds."""
        return [self.rows[i] for i in np.flatnonzero(mask).tolist()]


def open_messages(messages: Sequence[Message], limits: Limits, now: datetime) -> tuple[Readings, list[DeadLetter]]:
    """Tell readings from dead letters.

    Args:
        now: wall clock, with its zone.
    """
    latest_s = min(now.timestamp() + limits.future_s, _LAST_S)
    rows: list[Row] = []
    place: list[int] = []
    letters: list[DeadLetter] = []
    index: dict[str, int] = {}
    battery_row: list[int] = []
    unknown_fields = 0
    for i, message in enumerate(messages):
        try:
            row, unknown = _open(message, limits, latest_s)
        except _RefusedError as refused:
            letters.append(DeadLetter(refused.reason, refused.sentence, refused.field, message))
            continue
        unknown_fields += unknown
        rows.append(row)
        place.append(i)
        battery_row.append(index.setdefault(row.battery_id, len(index)))  # type: ignore[attr-defined]
    return (
        Readings(
            rows=rows,
            place=np.array(place, dtype=np.int64),
            battery_ids=list(index),
            battery_row=np.array(battery_row, dtype=np.int64),
            matrix=readings_matrix(rows),
            unknown_fields=unknown_fields,
        ),
        letters,
    )


def count_reasons(letters: Sequence[DeadLetter]) -> Counter[Reason]:
    """How many letters there are for each reason."""
    return Counter(letter.reason for letter in letters)


class _RefusedError(TwinError):
    def __init__(self, reason: Reason, sentence: str, field: str | None) -> None:
        super().__init__(sentence, field=field)
        self.reason = reason


def _open(message: Message, limits: Limits, latest_s: float) -> tuple[Row, int]:
    if message.size > limits.message_bytes:
        raise _RefusedError(
            "too_large",
            f"the message holds {message.size} bytes: a reading holds at most {limits.message_bytes}",
            None,
        )
    try:
        row, unknown = parse(message.value)
    except MessageError as error:
        raise _RefusedError(error.fault, error.sentence, error.field) from error
    battery_id, time = cast(str, row.battery_id), cast(datetime, row.time)  # type: ignore[attr-defined]
    if message.key != battery_id.encode():
        # States lie by key: under another key the battery would have two twins, each with half of its readings.
        raise _RefusedError(
            "wrong_key",
            f"the key of the message is {_shown(message.key)} and its battery_id {battery_id!r}: make them the same",
            "battery_id",
        )
    time_s = time.timestamp()
    if time_s > latest_s:
        raise _RefusedError(
            "future",
            f"{TIME_KEY} is {time.isoformat()}, further ahead of this clock than {limits.future_s:g} s "
            "(TWIN_MAX_FUTURE_S): set the battery's clock",
            TIME_KEY,
        )
    if time_s < _FIRST_S:
        raise _RefusedError(
            "timestamp", f"{TIME_KEY} is {time.isoformat()}, before 1970: set the battery's clock", TIME_KEY
        )
    return row, len(unknown)


def _shown(key: bytes | None) -> str:
    return "absent" if key is None else repr(key[:60].decode("utf-8", errors="replace"))
