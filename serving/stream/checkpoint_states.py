"""The states of a checkpoint's batteries: as they were kept, or rebuilt from the store where they cannot be used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

import numpy as np

from features.state import FloatArray, StateError, from_bytes, new_states, view
from serving.replay import tell
from telemetry.batch import Row

#: Why a state was not used as it was kept.
Cause = Literal["absent", "unusable", "described"]
CAUSES: tuple[Cause, ...] = ("absent", "unusable", "described")


class NotYetError(RuntimeError):
    """Rebuilding takes longer than a checkpoint may: ask again, what was done is kept."""


class History(Protocol):
    """What is asked of the store; see `serving.stream.state_restore.Past`."""

    def batteries(self, battery_ids: Sequence[str]) -> dict[str, Row]:
        """Rows of the table `batteries`, by id."""
        ...

    def state(self, battery_id: str, until: datetime) -> FloatArray:
        """A battery's state as of just before `until`."""
        ...


class NoHistory:
    """Where there is no store every battery begins anew, and nothing is known of what it is made of."""

    def batteries(self, battery_ids: Sequence[str]) -> dict[str, Row]:
        """None."""
        return {}

    def state(self, battery_id: str, until: datetime) -> FloatArray:
        """A new one."""
        state: FloatArray = new_states(1)[0]
        return state


class States:
    """Gives the states before a checkpoint.

    Args:
        budget_s: how long one call may spend on rebuilding: a consumer that is silent for minutes loses its place.
    """

    def __init__(self, history: History, budget_s: float) -> None:
        self._history = history
        self._budget_s = budget_s
        self._done: dict[str, tuple[datetime, FloatArray]] = {}
        self._rebuilt: Counter[Cause] = Counter()

    def before(self, battery_ids: Sequence[str], kept: Sequence[bytes | None], first: Sequence[datetime]) -> FloatArray:
        """float64[n, STATE_SIZE] of `battery_ids`, as of just before each one's `first` reading at hand.

        A state is rebuilt by replay if there is none, if it is damaged or of another version of the fold, and if
        something else than what it was folded with is now known of its battery: features are shares of the capacity.

        Args:
            kept: what `features.state.to_bytes` gave after the last checkpoint, None where there is nothing.

        Raises:
            NotYetError: it takes longer; the same call later goes on where this one ended.
            SinkUnavailableError: the store did not answer.
        """
        deadline = time.monotonic() + self._budget_s
        known = self._history.batteries(battery_ids)
        states = new_states(len(battery_ids))
        for i, (battery_id, raw, until) in enumerate(zip(battery_ids, kept, first, strict=True)):
            state, cause = _told(raw, known.get(battery_id))
            if cause is None:
                states[i] = state
                continue
            if battery_id not in self._done or self._done[battery_id][0] != until:
                if time.monotonic() > deadline:
                    raise NotYetError(f"{len(self._done)} of {len(battery_ids)} states were rebuilt from the store")
                self._done[battery_id] = (until, self._history.state(battery_id, until))
                self._rebuilt[cause] += 1
            replayed = self._done[battery_id][1]
            # The store may be behind the stream; what was folded already is worth more than what it was called.
            states[i] = state if cause == "described" and not _as_new(replayed, state) else replayed
        return states

    def settle(self) -> None:
        """The checkpoint was made: what was rebuilt for it is kept elsewhere now."""
        self._done = {}

    def take_rebuilt(self) -> Counter[Cause]:
        """How many states were rebuilt since this was asked last, by cause."""
        rebuilt, self._rebuilt = self._rebuilt, Counter()
        return rebuilt


def _told(raw: bytes | None, battery: Row | None) -> tuple[FloatArray, Cause | None]:
    """The state, with what is known of its battery, and why it should be rebuilt all the same."""
    state = new_states(1)[0]
    if raw is None:
        return state, "absent"
    try:
        state = from_bytes(raw)
    except StateError:
        return state, "unusable"
    before = state.copy()
    tell(state, battery)
    return state, None if np.array_equal(before, state, equal_nan=True) else "described"


def _as_new(replayed: FloatArray, state: FloatArray) -> bool:
    return not view(state).time_s > view(replayed).time_s
