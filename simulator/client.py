"""Client of the prediction service: readings in, predictions and the battery's opaque state out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx
import orjson

from data.batch import Row
from data.contract import BATTERY_FIELDS, READING_FIELDS
from data.wire import json_values

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
_JSON = {"content-type": "application/json"}


class PredictionError(RuntimeError):
    """The service gave no prediction; the readings were not folded into the state that the caller holds."""


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
    """What the service says of one battery after its last reading.

    Attributes:
        state: opaque, to be sent with the next readings.
        predictions: by target (soh in percent, temperature in degC, rul in cycles, failure as a probability).
    """

    time: datetime
    state: str
    release: str
    predictions: Mapping[str, Prediction]

    def value(self, target: str) -> float | None:
        """The predicted value; None where it was withheld or is not offered."""
        prediction = self.predictions.get(target)
        return None if prediction is None else prediction.value


class PredictionClient:
    """Asynchronous calls to one service; use it as a context manager."""

    def __init__(self, base_url: str, *, connections: int, timeout_s: float = 10.0) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )

    async def __aenter__(self) -> PredictionClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Return when the service says that it can answer.

        Raises:
            PredictionError: it did not within `timeout_s`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            reason = await self._not_ready()
            if reason is None:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise PredictionError(
                    f"The prediction service at {self._http.base_url} is not ready after {timeout_s:g} s: {reason}"
                )
            await asyncio.sleep(0.25)

    async def predict(self, battery: Row, readings: Sequence[Row], state: str | None) -> Answer:
        """Post `readings` of `battery` (a row of the batteries table), folded on top of `state`.

        Raises:
            PredictionError: no answer, an error, or an answer that is not of the contract.
        """
        entry: dict[str, object] = {
            "battery_id": battery["battery_id"],
            "battery": json_values(battery, _POSTED_BATTERY_FIELDS),
            "readings": [json_values(reading, _POSTED_FIELDS) for reading in readings],
        }
        if state is not None:
            entry["state"] = state
        body = orjson.dumps({"batteries": [entry]})
        try:
            response = await self._http.post("/predict", content=body, headers=_JSON)
        except httpx.HTTPError as error:
            raise PredictionError(f"no answer from the service: {error or type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise PredictionError(f"the service answered {response.status_code}: {response.text[:300]}")
        try:
            return _answer(orjson.loads(response.content)["predictions"][0])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise PredictionError(f"the service's answer is not of the contract: {error!r}") from error

    async def _not_ready(self) -> str | None:
        try:
            response = await self._http.get("/readyz")
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if response.status_code == httpx.codes.OK else f"it answers {response.status_code}"


def prediction_rows(battery_id: str, answer: Answer, predicted_at: datetime) -> list[Row]:
    """`answer` as rows of `battery_predictions`; a withheld prediction has none."""
    return [
        {
            "battery_id": battery_id,
            "time": answer.time,
            "target": target,
            "value": prediction.value,
            "lower": prediction.lower,
            "upper": prediction.upper,
            "due": prediction.due,
            "model_name": prediction.model_name,
            "model_version": prediction.model_version,
            "role": "champion",
            "predicted_at": predicted_at,
        }
        for target, prediction in answer.predictions.items()
        if prediction.value is not None
    ]


def _answer(entry: Mapping[str, Any]) -> Answer:
    return Answer(
        time=datetime.fromisoformat(entry["time"]),
        state=entry["state"],
        release=str(entry.get("release", "")),
        predictions={
            target: _prediction(entry[name])
            for name, target in ANSWER_FIELDS.items()
            if isinstance(entry.get(name), Mapping)
        },
    )


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
