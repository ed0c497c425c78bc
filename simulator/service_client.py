"""Client of the prediction service: readings in, predictions and the battery's opaque state out."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx
import orjson

from telemetry.batch import Row
from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, names
from telemetry.wire import json_values

#: Field of the service's answer -> target, as `battery_predictions` names it.
ANSWER_FIELDS: dict[str, str] = {
    "soh": "soh",
    "temperature": "temperature",
    "rul": "rul",
    "failure_probability": "failure",
}
#: A real car does not send its state of health, so the service does not get it either.
_POSTED_FIELDS = tuple(field for field in READING_FIELDS if field.name not in ("battery_id", "soh"))
_POSTED_BATTERY_FIELDS = tuple(field for field in BATTERY_FIELDS if field.name != "battery_id")
_CYCLE_TIMES = tuple(names(field for field in CYCLE_FIELDS if field.kind == "time"))
_JSON = {"content-type": "application/json"}
#: Answers to a request that will never be another: it breaks the contract, or is too large.
_REFUSALS = (httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY)
_STATE_FIELD = re.compile(r"batteries\[(\d+)\]\.state")
_POLL_S = 0.25


class PredictionError(RuntimeError):
    """The service gave no prediction; the readings were not folded into the state that the caller holds."""


class PredictionRefusedError(PredictionError):
    """The service will never answer this request as it is."""


class StateRefusedError(PredictionError):
    """The state of `battery_id` cannot be continued, e.g. because another version of the fold made it."""

    def __init__(self, battery_id: str, sentence: str) -> None:
        super().__init__(sentence)
        self.battery_id = battery_id


@dataclass(frozen=True)
class Question:
    """What is asked about one battery.

    Attributes:
        readings: in time order, to be folded on top of `state`.
        state: of the last answer; None where there was none.
        battery: its row of the batteries table, where it is known.
    """

    battery_id: str
    readings: Sequence[Row]
    state: str | None = None
    battery: Row | None = None


@dataclass(frozen=True)
class Prediction:
    """One target of one answer; `value` is None where the service withheld it."""

    value: float | None
    lower: float | None
    upper: float | None
    due: datetime | None
    model_name: str | None
    model_version: str | None


@dataclass(frozen=True)
class Answer:
    """What the service says of one battery after one of its readings.

    Attributes:
        state: opaque, to be sent with the next readings; of the last reading only.
        predictions: by target (soh in percent, temperature in degC, rul in cycles, failure as a probability).
        closed_cycles: charge and discharge sessions that had ended by then, rows of `battery_cycles`.
    """

    time: datetime
    state: str | None
    release: str
    predictions: Mapping[str, Prediction]
    closed_cycles: Sequence[Row] = ()

    def value(self, target: str) -> float | None:
        """The predicted value; None where it was withheld or is not offered."""
        prediction = self.predictions.get(target)
        return None if prediction is None else prediction.value


class PredictionClient:
    """Calls to one service, from any thread; use it as a context manager."""

    def __init__(self, base_url: str, *, timeout_s: float = 10.0) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> PredictionClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def wait_until_ready(self, timeout_s: float, stop: threading.Event) -> None:
        """Return when the service says that it can answer, or `stop` is set.

        Raises:
            PredictionError: it did not within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (reason := self._not_ready()) is not None and not stop.is_set():
            if time.monotonic() > deadline:
                raise PredictionError(
                    f"The prediction service at {self._http.base_url} is not ready after {timeout_s:g} s: {reason}"
                )
            stop.wait(_POLL_S)

    def predict(self, questions: Sequence[Question], *, every_reading: bool) -> list[list[Answer]]:
        """Ask about several batteries, each once; the answers of each, in the order of the questions.

        Args:
            every_reading: an answer for each reading, and the sessions that ended by then; else one a battery.

        Raises:
            PredictionError: no answer, an error, or an answer that is not of the contract.
        """
        body: dict[str, object] = {"batteries": [_entry(question) for question in questions]}
        if every_reading:
            body |= {"every_reading": True, "closed_cycles": True}
        try:
            response = self._http.post("/predict", content=orjson.dumps(body), headers=_JSON)
        except httpx.HTTPError as error:
            raise PredictionError(f"no answer from the service: {error or type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise _error(response, questions)
        try:
            answers = iter([_answer(entry) for entry in orjson.loads(response.content)["predictions"]])
            return [[next(answers) for _ in (question.readings if every_reading else "1")] for question in questions]
        except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
            raise PredictionError(f"the service's answer is not of the contract: {error!r}") from error

    def _not_ready(self) -> str | None:
        try:
            response = self._http.get("/readyz")
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if response.status_code == httpx.codes.OK else f"it answers {response.status_code}"


def prediction_rows(battery_id: str, reading: Row, answer: Answer, predicted_at: datetime) -> list[Row]:
    """`answer` to `reading` as rows of `battery_predictions`; a withheld prediction has none."""
    return [
        {
            "battery_id": battery_id,
            "time": answer.time,
            "target": target,
            "value": prediction.value,
            "lower": prediction.lower,
            "upper": prediction.upper,
            "due": prediction.due,
            "cycle_index": reading.get("charge_cycles"),
            "model_name": prediction.model_name,
            "model_version": prediction.model_version,
            "role": "champion",
            "predicted_at": predicted_at,
        }
        for target, prediction in answer.predictions.items()
        if prediction.value is not None
    ]


def _entry(question: Question) -> dict[str, object]:
    entry: dict[str, object] = {
        "battery_id": question.battery_id,
        "readings": [json_values(reading, _POSTED_FIELDS) for reading in question.readings],
    }
    if question.battery is not None:
        entry["battery"] = json_values(question.battery, _POSTED_BATTERY_FIELDS)
    if question.state is not None:
        entry["state"] = question.state
    return entry


def _error(response: httpx.Response, questions: Sequence[Question]) -> PredictionError:
    sentence = f"the service answered {response.status_code}: {response.text[:300]}"
    if response.status_code in _REFUSALS:
        return PredictionRefusedError(sentence)
    if response.status_code == httpx.codes.CONFLICT and (found := _STATE_FIELD.search(response.text)):
        return StateRefusedError(questions[int(found[1])].battery_id, sentence)
    return PredictionError(sentence)


def _answer(entry: Mapping[str, Any]) -> Answer:
    return Answer(
        time=datetime.fromisoformat(entry["time"]),
        state=entry.get("state"),
        release=str(entry.get("release", "")),
        predictions={
            target: _prediction(entry[name])
            for name, target in ANSWER_FIELDS.items()
            if isinstance(entry.get(name), Mapping)
        },
        closed_cycles=[_cycle(row) for row in entry.get("closed_cycles") or ()],
    )


def _cycle(row: Mapping[str, Any]) -> Row:
    times = {name: datetime.fromisoformat(row[name]) for name in _CYCLE_TIMES if row.get(name) is not None}
    return {**row, **times}


def _prediction(entry: Mapping[str, Any]) -> Prediction:
    lower, upper = entry.get("interval") or (None, None)
    name, _, version = (entry.get("model") or "").rpartition("/")
    due = entry.get("due")
    return Prediction(
        value=entry.get("value"),
        lower=lower,
        upper=upper,
        due=None if due is None else datetime.fromisoformat(due),
        model_name=name or None,
        model_version=version or None,
    )
