"""HTTP client of the prediction service: posts readings of batteries, returns predictions and opaque states."""

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

from features.prediction_rows import prediction_rows
from features.targets import TARGETS
from telemetry.batch import Row
from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, names
from telemetry.wire import json_values

#: Real cars do not send their state of health, so that it is not posted.
_POSTED_FIELDS = tuple(field for field in READING_FIELDS if field.name not in ("battery_id", "soh"))
_POSTED_BATTERY_FIELDS = tuple(field for field in BATTERY_FIELDS if field.name != "battery_id")
_CYCLE_TIMES = tuple(names(field for field in CYCLE_FIELDS if field.kind == "time"))
_JSON = {"content-type": "application/json"}
#: Status codes with which repeating the request is useless: it violates the contract, or is too large.
_REFUSALS = (httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY)
_BATTERY_FIELD = re.compile(r"batteries\[(\d+)\]")
_POLL_S = 0.25


class PredictionError(RuntimeError):
    """No prediction was received; the caller's state does not include the readings."""


class PredictionRefusedError(PredictionError):
    """The service refused the request for good."""


class StateRefusedError(PredictionError):
    """The state of `battery_id` cannot be continued, e.g. because it has another `STATE_VERSION`."""

    def __init__(self, battery_id: str, sentence: str) -> None:
        super().__init__(sentence)
        self.battery_id = battery_id


@dataclass(frozen=True)
class BatteryReadings:
    """Request for one battery.

    Attributes:
        readings: in time order, with which `state` is updated.
        state: of the last response; None where there is none.
        battery: its row of the batteries table, where it is known.
    """

    battery_id: str
    readings: Sequence[Row]
    state: str | None = None
    battery: Row | None = None


@dataclass(frozen=True)
class BatteryPredictions:
    """Response for one battery after one of its readings.

    Attributes:
        entry: the response entry, with `time` and `due` as datetimes.
        closed_cycles: charge and discharge sessions that ended since the battery's previous predictions, rows of
            `battery_cycles`.
    """

    entry: Mapping[str, Any]
    closed_cycles: Sequence[Row] = ()

    @property
    def state(self) -> str | None:
        """Opaque, to be sent with the next readings; with the last reading only."""
        return self.entry.get("state")

    def value(self, target: str) -> float | None:
        """Predicted value in the presented unit; None where it was withheld or is not in the release."""
        value: float | None = self.entry.get(TARGETS[target].shown.field, {}).get("value")
        return value

    def rows(self, predicted_at: datetime) -> list[Row]:
        """Rows of `battery_predictions`."""
        return prediction_rows([self.entry], role="champion", predicted_at=predicted_at)


class PredictionClient:
    """Thread-safe client of one service; a context manager."""

    def __init__(self, base_url: str, *, timeout_s: float = 10.0) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> PredictionClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def wait_until_ready(self, timeout_s: float, stop: threading.Event) -> None:
        """Return when the service reports readiness, or `stop` is set.

        Raises:
            PredictionError: it is not ready within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (reason := self._not_ready()) is not None and not stop.is_set():
            if time.monotonic() > deadline:
                raise PredictionError(
                    f"The prediction service at {self._http.base_url} is not ready after {timeout_s:g} s: {reason}"
                )
            stop.wait(_POLL_S)

    def predict(self, batteries: Sequence[BatteryReadings], *, every_reading: bool) -> list[list[BatteryPredictions]]:
        """Post readings of several batteries in one request; the predictions of each, in the same order.

        Args:
            every_reading: predictions for each reading; else for the last reading of each battery.

        Raises:
            PredictionError: no response, an error, or a response that violates the contract.
        """
        body = {
            "batteries": [_entry(battery) for battery in batteries],
            "every_reading": every_reading,
            "closed_cycles": True,
        }
        try:
            response = self._http.post("/predict", content=orjson.dumps(body), headers=_JSON)
        except httpx.HTTPError as error:
            raise PredictionError(f"no response from the service: {error or type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            content = _json(response)
            raise _error(
                response.status_code, content.get("error", response.text[:300]), content.get("field"), batteries
            )
        try:
            content = orjson.loads(response.content)["predictions"]
            if (refused := next((entry for entry in content if "error" in entry), None)) is not None:
                raise _error(refused["status"], refused["error"], refused["field"], batteries)
            entries = iter([_predictions(entry) for entry in content])
            return [[next(entries) for _ in range(len(one.readings) if every_reading else 1)] for one in batteries]
        except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
            raise PredictionError(f"the service's response violates the contract: {error!r}") from error

    def _not_ready(self) -> str | None:
        try:
            response = self._http.get("/readyz")
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if response.status_code == httpx.codes.OK else f"status {response.status_code}"


def _entry(battery: BatteryReadings) -> dict[str, object]:
    entry: dict[str, object] = {
        "battery_id": battery.battery_id,
        "readings": [json_values(reading, _POSTED_FIELDS) for reading in battery.readings],
    }
    if battery.battery is not None:
        entry["battery"] = json_values(battery.battery, _POSTED_BATTERY_FIELDS)
    if battery.state is not None:
        entry["state"] = battery.state
    return entry


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        content = orjson.loads(response.content)
    except ValueError:  # e.g. the page of a proxy
        return {}
    return content if isinstance(content, dict) else {}


def _error(status: int, reason: str, field: str | None, batteries: Sequence[BatteryReadings]) -> PredictionError:
    """The error of a request, or of one of its batteries."""
    sentence = f"the service responded with {status}: {reason}"
    if status in _REFUSALS:
        return PredictionRefusedError(sentence)
    if status == httpx.codes.CONFLICT and (found := _BATTERY_FIELD.match(field or "")):
        return StateRefusedError(batteries[int(found[1])].battery_id, sentence)
    return PredictionError(sentence)


def _predictions(entry: dict[str, Any]) -> BatteryPredictions:
    entry["time"] = datetime.fromisoformat(entry["time"])
    for target in TARGETS.values():
        if (prediction := entry.get(target.shown.field) or {}).get("due") is not None:
            prediction["due"] = datetime.fromisoformat(prediction["due"])
    return BatteryPredictions(entry, [_cycle(row) for row in entry.get("closed_cycles") or ()])


def _cycle(row: Mapping[str, Any]) -> Row:
    times = {name: datetime.fromisoformat(row[name]) for name in _CYCLE_TIMES if row.get(name) is not None}
    return {**row, **times}
