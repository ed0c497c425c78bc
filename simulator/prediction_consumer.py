"""The prediction client of the live simulator: one more consumer of the spool.

Readings are predicted in the order in which they came, each exactly once as far as anybody can see: the predictions,
the batteries' new states and the place in the spool are kept in one step.  What the service missed is made up for when
it is back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

from simulator.live_twin import LiveTwin
from simulator.run_statistics import RunStatistics
from simulator.service_client import (
    Answer,
    PredictionClient,
    PredictionError,
    PredictionRefusedError,
    Question,
    StateRefusedError,
    prediction_rows,
)
from telemetry.batch import Batch, Row, rows_of
from telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from telemetry.spool.delivery import Made
from telemetry.spool.entries import Entry
from telemetry.spool.spool import Spool

logger = logging.getLogger(__name__)

CONSUMER = "predictions"
#: Most readings that one call carries; also most batteries, which the service limits.
READINGS_A_CALL = 1000
HISTORY_CHUNK = 2000
#: Histories folded at once: more than the service has workers, so that it is never idle.
_HISTORIES_AT_ONCE = 2


class PredictionWorker:
    """Predicts from readings; a `telemetry.spool.delivery.Worker`.

    Args:
        twins: by battery id; readings of others (of an earlier run) are predicted too, from the state that is kept.
    """

    def __init__(
        self, client: PredictionClient, spool: Spool, twins: Mapping[str, LiveTwin], tally: RunStatistics
    ) -> None:
        self._client = client
        self._spool = spool
        self._twins = twins
        self._tally = tally
        self._states: dict[str, str] = {}
        self._newest: dict[str, Answer] = {}

    def setup(self) -> None:
        """Read the states that were kept."""
        self._states = {name: state.decode() for name, state in self._spool.states(CONSUMER).items()}

    def handle(self, entries: Sequence[Entry]) -> Made:
        """Ask the service about readings of any batteries, all in one call."""
        readings: dict[str, list[Row]] = {}
        for entry in entries:
            readings.setdefault(str(entry.row["battery_id"]), []).append(entry.row)
        try:
            answers = self._answers(readings)
        except PredictionRefusedError as error:
            raise SinkRefusedError(str(error)) from error
        except PredictionError as error:
            self._tally.failed(str(error))
            raise SinkUnavailableError(str(error)) from error
        now = datetime.now(UTC)
        predictions: list[Row] = []
        cycles: list[Row] = []
        for battery_id, given in answers.items():
            for reading, answer in zip(readings[battery_id], given, strict=True):
                predictions += prediction_rows(battery_id, reading, answer, now)
                cycles += answer.closed_cycles
        self._newest = {battery_id: given[-1] for battery_id, given in answers.items()}
        states = {name: answer.state.encode() for name, answer in self._newest.items() if answer.state is not None}
        return Made(Batch(predictions=predictions, cycles=cycles), states)

    def kept(self, entries: Sequence[Entry], made: Made) -> None:
        """Go on from the new states, and show them."""
        self._states.update({name: state.decode() for name, state in made.states.items()})
        for battery_id, answer in self._newest.items():
            if battery_id in self._twins:
                self._twins[battery_id].answer = answer
        self._tally.predicted(entries[-1].position, len(entries))

    def close(self) -> None:
        """The client belongs to somebody else."""

    def _answers(self, readings: Mapping[str, Sequence[Row]]) -> dict[str, list[Answer]]:
        """By battery, one for each of its readings."""
        while True:
            questions = [
                Question(name, rows, self._states.get(name), self._identity(name)) for name, rows in readings.items()
            ]
            try:
                return dict(zip(readings, self._client.predict(questions, every_reading=True), strict=True))
            except StateRefusedError as error:
                self._rebuild(error)

    def _identity(self, battery_id: str) -> Row | None:
        return self._twins[battery_id].identity if battery_id in self._twins else None

    def _rebuild(self, refusal: StateRefusedError) -> None:
        """Make a state anew from the battery's past; what it lived in earlier runs is not in it."""
        logger.warning("the state of %s is made anew: %s", refusal.battery_id, refusal)
        if self._states.pop(refusal.battery_id, None) is None:
            raise refusal
        if refusal.battery_id in self._twins:
            self._states[refusal.battery_id] = fold_past(self._twins[refusal.battery_id], self._client)


def fold_past(
    twin: LiveTwin,
    client: PredictionClient,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    stop: Event | None = None,
) -> str:
    """The state that the battery's life so far has given it; empty where `stop` was set meanwhile.

    Args:
        progress: called with battery id, readings posted and readings in all.

    Raises:
        PredictionError: the service did not take the past.
    """
    past = rows_of(twin.battery.history())
    battery_id = twin.battery.battery_id
    state: str | None = None
    for begin in range(0, len(past), HISTORY_CHUNK):
        if stop is not None and stop.is_set():
            return ""
        chunk = past[begin : begin + HISTORY_CHUNK]
        ((answer,),) = client.predict([Question(battery_id, chunk, state, twin.identity)], every_reading=False)
        state, twin.answer = answer.state, answer
        progress(battery_id, begin + len(chunk), len(past))
    return state or ""


def fold_pasts(
    twins: Sequence[LiveTwin],
    client: PredictionClient,
    spool: Spool,
    progress: Callable[[str, int, int], None],
    stop: Event,
) -> None:
    """Fold the past of every battery whose state the spool does not know yet, and keep the states there.

    Raises:
        PredictionError: the service did not take a past.
    """
    with ThreadPoolExecutor(_HISTORIES_AT_ONCE, thread_name_prefix="history") as places:

        def fold(twin: LiveTwin) -> None:
            if state := fold_past(twin, client, progress, stop):
                # Position 0: the cursor stays where it is.
                spool.advance(CONSUMER, 0, states={twin.battery.battery_id: state.encode()})

        folding = [places.submit(fold, twin) for twin in twins]
        try:
            for future in folding:
                future.result()
        except BaseException:
            for future in folding:
                future.cancel()
            raise
