"""The evaluator: round after round, what has come true since the last one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psycopg2

from features.table import LabelParams
from monitoring.evaluation.observations import observe
from monitoring.evaluation.outcome_store import ROLES, DueForecast, EvaluationStore, Role
from monitoring.evaluation.outcomes import Outcome, evaluate, temperature_truth
from telemetry.stores.retention import RETENTION_DAYS

logger = logging.getLogger(__name__)

#: What one round may read and write, so that it always ends soon.
READINGS_PER_ROUND = 50_000
BATTERIES_PER_ROUND = 200
FORECASTS_PER_ROUND = 500
DELETED_PER_ROUND = 10_000
_RETRY_S = 5.0

DefinitionsOf = Callable[[str | None, str | None], LabelParams | None]


@dataclass(frozen=True)
class EvaluationRound:
    """What one round did.

    Attributes:
        outcomes: rows of `prediction_outcomes` that are new or changed.
        more: there is more to do at once.
    """

    outcomes: int = 0
    more: bool = False


class Evaluator:
    """Writes `prediction_outcomes` from what the store holds.  Any number may run; one of them works.

    Args:
        definitions_of: by model; None where they cannot be had now, and its predictions wait.
        every_s: one temperature prediction a battery and interval is compared, as in training.
    """

    def __init__(
        self, dsn: str, definitions_of: DefinitionsOf, every_s: float = LabelParams.temperature_every_s
    ) -> None:
        self._store = EvaluationStore(dsn)
        self._definitions_of = definitions_of
        self._every_s = every_s
        # Whose turn it was last: what one battery waits for must not keep the others waiting.
        self._judged_after = ""
        self._compared_after = dict.fromkeys(ROLES, "")

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Rounds until `stop` is set, `interval_s` apart where nothing waits; errors of the database are waited out."""
        try:
            while not stop.is_set():
                try:
                    done = self.round()
                except psycopg2.Error as error:
                    logger.warning("the telemetry store could not be evaluated: %s", str(error).strip())
                    stop.wait(_RETRY_S)
                else:
                    stop.wait(0.0 if done.more else interval_s)
        finally:
            self._store.close()

    def catch_up(self) -> int:
        """Rounds until nothing waits; how many outcomes are new or changed."""
        outcomes = 0
        while True:
            done = self.round()
            outcomes += done.outcomes
            if not done.more:
                return outcomes

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()

    def round(self) -> EvaluationRound:
        """Look once at everything that is new.

        Raises:
            psycopg2.Error: the database did not answer; what was not done is done by a later round.
        """
        if not self._store.try_lock():
            return EvaluationRound()
        more = self._observe()
        self._store.flag_new_cycles()
        outcomes = 0
        for role in ROLES:
            more = self._store.store_pending_labels(role) or more
        judged, waiting = self._judge()
        outcomes += judged
        more = more or waiting
        for role in ROLES:
            compared, waiting = self._compare(role)
            outcomes += compared
            more = more or waiting
        self._store.retire("temperature", RETENTION_DAYS, DELETED_PER_ROUND)
        return EvaluationRound(outcomes, more)

    def _observe(self) -> bool:
        new = self._store.new_readings(READINGS_PER_ROUND)
        seen = []
        for one in new:
            observed, found = observe(one.observed, one.readings)
            seen.append((one.battery_id, replace(observed, until=one.until), found))
        self._store.remember(seen)
        return sum(len(one.readings) for one in new) >= READINGS_PER_ROUND // 2

    def _judge(self) -> tuple[int, bool]:
        outcomes = 0
        battery_ids = self._store.dirty_batteries(BATTERIES_PER_ROUND, self._judged_after)
        waiting = 0
        for battery_id in battery_ids:
            life = self._store.life(battery_id)
            kept = [] if life is None else self._store.kept_predictions(battery_id)
            known, unknown = ([], []) if life is None else evaluate(kept, life, self._definitions_of)
            done = len(known) + len(unknown) == len(kept)
            waiting += not done
            outcomes += self._store.settle(battery_id, known, unknown, done)
            self._judged_after = battery_id
        return outcomes, len(battery_ids) == BATTERIES_PER_ROUND and waiting < BATTERIES_PER_ROUND

    def _compare(self, role: Role) -> tuple[int, bool]:
        """Compare the temperature predictions whose time has come, one an interval."""
        moments = self._store.due_forecasts(role, self._every_s, FORECASTS_PER_ROUND, self._compared_after[role])
        if moments:
            self._compared_after[role] = moments[-1].battery_id
        ready = [(one, self._definitions(one)) for one in moments]
        judged = [(one, definitions) for one, definitions in ready if definitions is not None]
        predictions = [one.prediction for one, _ in judged if one.prediction is not None]
        tolerance_s = max((definitions.temperature_tolerance_s for _, definitions in judged), default=0.0)
        readings = self._store.readings_from(predictions, tolerance_s)
        outcomes: list[Outcome] = []
        wanted = [(one.prediction, definitions) for one, definitions in judged if one.prediction is not None]
        for number, (prediction, definitions) in enumerate(wanted):
            if number in readings:
                actual = temperature_truth(prediction, *readings[number], definitions)
                if actual is not None:
                    outcomes.append(Outcome(prediction, actual, prediction.due or prediction.time))
        until = [(one.battery_id, self._end_of_interval(one.time)) for one, _ in judged]
        return self._store.compared(role, until, outcomes), bool(judged)

    def _definitions(self, moment: DueForecast) -> LabelParams | None:
        if moment.prediction is None:
            return LabelParams()
        return self._definitions_of(moment.prediction.model_name, moment.prediction.model_version)

    def _end_of_interval(self, time: datetime) -> datetime:
        ticks = time.timestamp() // self._every_s + 1.0
        return datetime.fromtimestamp(ticks * self._every_s, UTC)
