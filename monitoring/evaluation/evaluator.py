"""Runs model evaluation in a loop: writes `prediction_outcomes` for labels that have matured."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psycopg2

from features.labels import LabelParams
from features.targets import FORECASTS
from monitoring.evaluation.observations import Observation, observe
from monitoring.evaluation.outcome_store import ROLES, EvaluationStore, Role
from monitoring.evaluation.outcomes import Outcome, evaluate, forecast_label
from monitoring.unreadable import DATA_ERRORS, UnreadableRows
from telemetry.stores.retention import RETENTION_DAYS

logger = logging.getLogger(__name__)

#: Limits of one round, so that it always ends soon.
READINGS_PER_ROUND = 50_000
BATTERIES_PER_ROUND = 200
FORECASTS_PER_ROUND = 500
DELETED_PER_ROUND = 10_000
_RETRY_S = 5.0

DefinitionsOf = Callable[[str | None, str | None], LabelParams | None]


@dataclass(frozen=True)
class EvaluationRound:
    """Result of one round.

    Attributes:
        outcomes: number of new or changed rows of `prediction_outcomes`.
        more: more work is available now.
    """

    outcomes: int = 0
    more: bool = False


class Evaluator:
    """Writes `prediction_outcomes` from the store.  Any number may run; an advisory lock admits one.

    Args:
        definitions_of: label definitions by model; None while they are unavailable, and its predictions wait.
        every_s: one forecast of each target per battery and interval is evaluated, as in training.
        max_future_s: as in `StoreConnection`.
        unreadable: counts the batteries that a step leaves out.
    """

    def __init__(
        self,
        dsn: str,
        definitions_of: DefinitionsOf,
        every_s: float = LabelParams().temperature_every_s,
        max_future_s: float | None = None,
        unreadable: UnreadableRows | None = None,
    ) -> None:
        self._store = EvaluationStore(dsn, max_future_s)
        self._unreadable = UnreadableRows() if unreadable is None else unreadable
        self._definitions_of = definitions_of
        self._every_s = every_s
        # Round-robin cursors: a battery that waits must not starve the others.
        self._last_dirty = ""
        self._last_forecast = dict.fromkeys(ROLES, "")

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Run until `stop` is set, every `interval_s` when idle; errors of the database and of its rows are retried."""
        try:
            while not stop.is_set():
                try:
                    result = self.run_once()
                except psycopg2.Error as error:
                    logger.warning("the telemetry store could not be evaluated: %s", str(error).strip())
                    stop.wait(_RETRY_S)
                except DATA_ERRORS:
                    logger.exception("the telemetry store holds rows that cannot be evaluated")
                    stop.wait(_RETRY_S)
                else:
                    stop.wait(0.0 if result.more else interval_s)
        finally:
            self._store.close()

    def catch_up(self) -> int:
        """Run until idle; returns the number of new or changed outcomes."""
        outcomes = 0
        while True:
            result = self.run_once()
            outcomes += result.outcomes
            if not result.more:
                return outcomes

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def run_once(self) -> EvaluationRound:
        """Process everything that is new, once.

        Raises:
            psycopg2.Error: the database failed; the next run resumes.
        """
        if not self._store.try_lock():
            return EvaluationRound()
        self._store.begin_new_lives()
        more = self._observe()
        self._store.flag_new_cycles()
        outcomes = 0
        for role in ROLES:
            more = self._store.store_pending_labels(role) or more
        changed, has_more = self._evaluate_slow_targets()
        outcomes += changed
        more = more or has_more
        for role in ROLES:
            changed, has_more = self._evaluate_forecasts(role)
            outcomes += changed
            more = more or has_more
        for target in FORECASTS:
            self._store.delete_expired(target, RETENTION_DAYS, DELETED_PER_ROUND)
        return EvaluationRound(outcomes, more)

    def _observe(self) -> bool:
        """Observe new readings; whether more may be waiting."""
        batteries = self._store.new_readings(READINGS_PER_ROUND)
        observed = []
        for battery in batteries:
            state, observations = battery.observed, list[Observation]()
            with self._unreadable.skipping("observation", battery.battery_id):
                state, observations = observe(battery.observed, battery.readings)
            observed.append((battery.battery_id, replace(state, until=battery.until), observations))
        self._store.write_observations(observed)
        return sum(len(battery.readings) for battery in batteries) >= READINGS_PER_ROUND // 2

    def _evaluate_slow_targets(self) -> tuple[int, bool]:
        """Number of new or changed outcomes, and whether more batteries can be evaluated now."""
        changed = 0
        battery_ids = self._store.dirty_batteries(BATTERIES_PER_ROUND, self._last_dirty)
        waiting = 0
        for battery_id in battery_ids:
            self._last_dirty = battery_id
            is_done = False
            with self._unreadable.skipping("labels", battery_id):
                new, is_done = self._evaluate_battery(battery_id)
                changed += new
            waiting += not is_done
        return changed, len(battery_ids) == BATTERIES_PER_ROUND and waiting < BATTERIES_PER_ROUND

    def _evaluate_battery(self, battery_id: str) -> tuple[int, bool]:
        """Number of new or changed outcomes of one battery, and whether none of its predictions waits."""
        history = self._store.battery_history(battery_id)
        predictions = [] if history is None else self._store.pending_labels(battery_id)
        outcomes, pending = ([], []) if history is None else evaluate(predictions, history, self._definitions_of)
        is_done = len(outcomes) + len(pending) == len(predictions)
        return self._store.write_labels(battery_id, outcomes, pending, is_done), is_done

    def _evaluate_forecasts(self, role: Role) -> tuple[int, bool]:
        """Evaluate the due forecasts, one per target and interval; returns as `_evaluate_slow_targets` does."""
        due = self._store.due_forecasts(role, self._every_s, FORECASTS_PER_ROUND, self._last_forecast[role])
        if due:
            self._last_forecast[role] = due[-1].battery_id
        candidates = [
            (one, [self._definitions_of(p.model_name, p.model_version) for p in one.predictions]) for one in due
        ]
        ready = [one for one, definitions in candidates if None not in definitions]
        with_prediction = [
            (prediction, definitions)
            for one, known in candidates
            for prediction, definitions in zip(one.predictions, known, strict=True)
            if definitions is not None and None not in known
        ]
        tolerance_s = max((definitions.temperature_tolerance_s for _, definitions in with_prediction), default=0.0)
        readings = self._store.readings_until_due([prediction for prediction, _ in with_prediction], tolerance_s)
        outcomes: list[Outcome] = []
        for number, (prediction, definitions) in enumerate(with_prediction):
            if number in readings:
                with self._unreadable.skipping("forecasts", prediction.battery_id):
                    actual = forecast_label(prediction, *readings[number], definitions)
                    if actual is not None and math.isfinite(actual) and math.isfinite(prediction.value):
                        outcomes.append(Outcome(prediction, actual, prediction.due or prediction.time))
        until = [(one.battery_id, self._end_of_interval(one.time)) for one in ready]
        return self._store.write_forecast_outcomes(role, until, outcomes), bool(ready)

    def _end_of_interval(self, time: datetime) -> datetime:
        ticks = time.timestamp() // self._every_s + 1.0
        return datetime.fromtimestamp(ticks * self._every_s, UTC)
