"""Spool consumer of the live simulator that sends readings to the prediction service and spools the predictions.

Readings are predicted in order and with exactly-once effect: predictions, new battery states and the consumer's cursor
are committed in one transaction.  Readings wait in the spool while the service is unavailable.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from simulator.history_backfill import CONSUMER, predict_history
from simulator.live_twin import LiveTwin
from simulator.run_statistics import RunStatistics
from simulator.service_client import (
    BatteryPredictions,
    BatteryReadings,
    PredictionClient,
    PredictionError,
    PredictionRefusedError,
    StateRefusedError,
)
from telemetry.batch import Batch, Row
from telemetry.sinks.base import SinkRefusedError, SinkUnavailableError
from telemetry.spool.delivery import WorkResult
from telemetry.spool.entries import Entry
from telemetry.spool.spool import Spool

logger = logging.getLogger(__name__)

#: Most readings in one request; also the most batteries, which the service limits.
READINGS_PER_REQUEST = 1000


class PredictionWorker:
    """Requests predictions for readings; a `telemetry.spool.delivery.Worker`.

    Args:
        twins: by battery id; readings of other batteries (of an earlier run) are predicted from their saved states.
    """

    def __init__(
        self, client: PredictionClient, spool: Spool, twins: Mapping[str, LiveTwin], statistics: RunStatistics
    ) -> None:
        self._client = client
        self._spool = spool
        self._twins = twins
        self._statistics = statistics
        self._states: dict[str, str] = {}
        self._newest: dict[str, BatteryPredictions] = {}

    def setup(self) -> None:
        """Load the saved states from the spool."""
        self._states = {name: state.decode() for name, state in self._spool.states(CONSUMER).items()}

    def handle(self, entries: Sequence[Entry]) -> WorkResult:
        """Predict the readings of `entries`, of any batteries, with one request."""
        readings: dict[str, list[Row]] = {}
        for entry in entries:
            readings.setdefault(str(entry.row["battery_id"]), []).append(entry.row)
        try:
            responses = self._predict(readings)
        except PredictionRefusedError as error:
            raise SinkRefusedError(str(error)) from error
        except PredictionError as error:
            self._statistics.count_error(str(error))
            raise SinkUnavailableError(str(error)) from error
        now = datetime.now(UTC)
        predictions: list[Row] = []
        cycles: list[Row] = []
        for of_battery in responses.values():
            for response in of_battery:
                predictions += response.rows(now)
                cycles += response.closed_cycles
        self._newest = {battery_id: of_battery[-1] for battery_id, of_battery in responses.items()}
        states = {name: newest.state.encode() for name, newest in self._newest.items() if newest.state is not None}
        return WorkResult(Batch(predictions=predictions, cycles=cycles), states)

    def committed(self, entries: Sequence[Entry], made: WorkResult) -> None:
        """Adopt the committed states and show the predictions."""
        self._states.update({name: state.decode() for name, state in made.states.items()})
        for battery_id, predictions in self._newest.items():
            if battery_id in self._twins:
                self._twins[battery_id].predictions = predictions
        self._statistics.count_predicted(entries[-1].offset, len(entries))

    def close(self) -> None:
        """Nothing to close: the caller owns the HTTP client."""

    def _predict(self, readings: Mapping[str, Sequence[Row]]) -> dict[str, list[BatteryPredictions]]:
        """Predictions by battery, one for each of its readings."""
        while True:
            requests = [
                BatteryReadings(battery_id, rows, self._states.get(battery_id), self._identity(battery_id))
                for battery_id, rows in readings.items()
            ]
            try:
                return dict(zip(readings, self._client.predict(requests, every_reading=True), strict=True))
            except StateRefusedError as error:
                self._rebuild(error)

    def _identity(self, battery_id: str) -> Row | None:
        return self._twins[battery_id].identity if battery_id in self._twins else None

    def _rebuild(self, refusal: StateRefusedError) -> None:
        """Rebuild a state from the battery's history; readings of earlier live runs are not in it."""
        logger.warning("the state of %s is rebuilt from its history: %s", refusal.battery_id, refusal)
        if self._states.pop(refusal.battery_id, None) is None:
            raise refusal
        if refusal.battery_id in self._twins:
            predicted = predict_history(self._twins[refusal.battery_id], self._client)
            if predicted is not None:
                self._states[refusal.battery_id] = predicted.state
