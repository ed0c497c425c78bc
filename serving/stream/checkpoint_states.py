"""Loads the battery states of a checkpoint from stored bytes, or restores them from the telemetry store if unusable."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

import numpy as np

from features.state import FloatArray, StateError, from_bytes, new_states, view
from serving.replay import set_battery_from_row
from telemetry.batch import Row

#: Why a state has to be restored: there is none, it cannot be decoded, or the battery's description has changed.
Cause = Literal["absent", "unusable", "described"]
CAUSES: tuple[Cause, ...] = ("absent", "unusable", "described")


class RestoreIncompleteError(RuntimeError):
    """Restoring takes longer than the time limit; the next call continues after the states restored so far."""


class BatteryHistory(Protocol):
    """Descriptions and restored states of batteries; see `serving.stream.state_restore.StoreHistory`."""

    def batteries(self, battery_ids: Sequence[str]) -> dict[str, Row]:
        """Rows of the table `batteries`, by id."""
        ...

    def state(self, battery_id: str, until: datetime) -> FloatArray:
        """A battery's state as of just before `until`."""
        ...


class NoHistory:
    """Replacement for the history without a store: no descriptions, and new states."""

    def batteries(self, battery_ids: Sequence[str]) -> dict[str, Row]:
        """An empty dict."""
        return {}

    def state(self, battery_id: str, until: datetime) -> FloatArray:
        """A new state."""
        state: FloatArray = new_states(1)[0]
        return state


class CheckpointStates:
    """Loads or restores the states before a checkpoint.

    Args:
        budget_s: time limit for restoring in one call, because a consumer that does not poll for minutes loses its
            partitions.
    """

    def __init__(self, history: BatteryHistory, budget_s: float) -> None:
        self._history = history
        self._budget_s = budget_s
        self._restored: dict[str, tuple[datetime, FloatArray]] = {}
        self._restored_causes: Counter[Cause] = Counter()

    def load(self, battery_ids: Sequence[str], stored: Sequence[bytes | None], first: Sequence[datetime]) -> FloatArray:
        """float64[n, STATE_SIZE]: the states of `battery_ids` as of just before each one's `first` reading to apply.

        A state is restored by replay if there is none, if it is damaged or of another state version, or if the
        battery's description has changed since the state was updated: features are relative to the capacity.

        Args:
            stored: result of `features.state.to_bytes` after the last checkpoint, None if there is none.

        Raises:
            RestoreIncompleteError: the time limit is exceeded; a repeated call continues.
            SinkUnavailableError: the store is unavailable.
        """
        deadline = time.monotonic() + self._budget_s
        described = self._history.batteries(battery_ids)
        states = new_states(len(battery_ids))
        for i, (battery_id, raw, until) in enumerate(zip(battery_ids, stored, first, strict=True)):
            state, cause = _decode_state(raw, described.get(battery_id))
            if cause is None:
                states[i] = state
                continue
            if battery_id not in self._restored or self._restored[battery_id][0] != until:
                if time.monotonic() > deadline:
                    raise RestoreIncompleteError(f"restored {len(self._restored)} of {len(battery_ids)} states")
                self._restored[battery_id] = (until, self._history.state(battery_id, until))
                self._restored_causes[cause] += 1
            replayed = self._restored[battery_id][1]
            # The store may lag behind the stream: the stored state is then used despite the changed description.
            states[i] = state if cause == "described" and not _is_as_recent(replayed, state) else replayed
        return states

    def commit(self) -> None:
        """Drop the restored states, which have been stored by the checkpoint."""
        self._restored = {}

    def take_restored(self) -> Counter[Cause]:
        """Number of restored states since the last call, by cause."""
        causes, self._restored_causes = self._restored_causes, Counter()
        return causes


def _decode_state(raw: bytes | None, battery: Row | None) -> tuple[FloatArray, Cause | None]:
    """The state with the battery's description set, and the cause if it has to be restored."""
    state = new_states(1)[0]
    if raw is None:
        return state, "absent"
    try:
        state = from_bytes(raw)
    except StateError:
        return state, "unusable"
    before = state.copy()
    set_battery_from_row(state, battery)
    return state, None if np.array_equal(before, state, equal_nan=True) else "described"


def _is_as_recent(replayed: FloatArray, state: FloatArray) -> bool:
    return not view(state).time_s > view(replayed).time_s
