"""From the bytes of a request to what the predictor takes; everything that can be wrong is found here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from pydantic_core import from_json

from features.state import READING_INPUTS, STATE_SIZE, FloatArray, StateError, decode, new_states, set_battery
from features.state_update import IntArray
from serving.errors import RequestError
from serving.request_scoring import Question
from telemetry.contract import SIGNALS
from telemetry.errors import TwinError
from telemetry.schemas.request import BatteryRequest, PredictRequest, Row, parse_request, unknown_fields
from telemetry.settings import Settings

# The fold counts time in seconds; every other input has the contract's name.
_reading_values = attrgetter("time", *READING_INPUTS[1:])
_cycle_values = attrgetter("cycle_index", *SIGNALS)


@dataclass(frozen=True)
class Limits:
    """How much one request may ask."""

    batteries: int
    rows: int
    body_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits in `settings`."""
        return cls(settings.service_max_batteries, settings.service_max_rows, settings.service_max_body_bytes)


@dataclass(frozen=True)
class Decoded:
    """A request that can be answered, and for each of its batteries how many unknown fields were ignored."""

    question: Question
    unknown_fields: list[int]


def decode_request(body: bytes, limits: Limits) -> Decoded:
    """Check `body` against the contract and read it.

    Raises:
        RequestError: 400 not JSON, 413 too much, 422 against the contract, 409 a state that cannot be continued.
    """
    try:
        raw = from_json(body)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    try:
        request = parse_request(raw)
    except TwinError as error:
        raise RequestError(422, error.sentence, field=error.field, value=error.value) from error
    _check_size(request, limits)
    batteries = request.batteries
    question = Question(
        battery_ids=[battery.battery_id for battery in batteries],
        states=_states(batteries),
        cycles=_cycles([cycle for battery in batteries for cycle in battery.cycles]),
        cycles_of=_rows_of([battery.cycles for battery in batteries]),
        readings=readings_matrix([reading for battery in batteries for reading in battery.readings]),
        readings_of=_rows_of([battery.readings for battery in batteries]),
        every_reading=request.every_reading,
        closed_cycles=request.closed_cycles,
    )
    return Decoded(question, _unknown_fields(raw))


def _check_size(request: PredictRequest, limits: Limits) -> None:
    batteries = request.batteries
    if len(batteries) > limits.batteries:
        raise RequestError(
            413,
            f"a request may hold {limits.batteries} batteries: send them in several",
            field="batteries",
            value=len(batteries),
        )
    rows = sum(len(battery.readings) + len(battery.cycles) for battery in batteries)
    if rows > limits.rows:
        raise RequestError(
            413,
            f"a request may hold {limits.rows} readings and cycles: send the history in parts, each with the state "
            "that the part before it gave",
            field="batteries",
            value=rows,
        )
    seen: set[str] = set()
    for i, battery in enumerate(batteries):
        if battery.battery_id in seen:
            raise RequestError(
                422,
                f"batteries[{i}].battery_id is in the request twice: send all its readings in one entry",
                field=f"batteries[{i}].battery_id",
                value=battery.battery_id,
            )
        seen.add(battery.battery_id)


def _states(batteries: Sequence[BatteryRequest]) -> FloatArray:
    """Where each twin stood, told what its battery is made of."""
    states = np.empty((len(batteries), STATE_SIZE))
    for i, battery in enumerate(batteries):
        try:
            states[i] = new_states(1)[0] if battery.state is None else decode(battery.state)
        except StateError as error:
            path = f"batteries[{i}].state"
            raise RequestError(409, f"{path}: {error.sentence}", field=path, value=battery.state) from error
        info: Any = battery.battery
        if info is not None:
            _set_battery(states[i], info, f"batteries[{i}].battery")
    return states


def _rows_of(rows: Sequence[Sequence[Row]]) -> IntArray:
    return np.array([i for i, own in enumerate(rows) for _ in own], dtype=np.int64)


def _set_battery(state: FloatArray, info: Any, path: str) -> None:
    try:
        set_battery(
            state,
            nominal_capacity_ah=info.nominal_capacity_ah,
            cells_in_series=info.cells_in_series,
            chemistry=info.chemistry,
        )
    except TwinError as error:
        raise RequestError(422, error.sentence, field=f"{path}.{error.field}", value=error.value) from error


def readings_matrix(readings: Sequence[Row]) -> FloatArray:
    """As `features.state_update.readings_matrix`, from `Reading`s without the detour over a table."""
    matrix = np.empty((len(readings), len(READING_INPUTS)))
    for i, reading in enumerate(readings):
        time, *values = _reading_values(reading)
        matrix[i, 0] = time.timestamp()
        matrix[i, 1:] = values  # None becomes NaN
    return matrix


def _cycles(cycles: Sequence[Row]) -> FloatArray:
    rows = [_cycle_values(cycle) for cycle in cycles]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 1 + len(SIGNALS))


def _unknown_fields(raw: Mapping[str, Any]) -> list[int]:
    """How many each battery carries; what belongs to no battery counts with the first."""
    total = unknown_fields(raw).total()
    counts = [unknown_fields({"batteries": [battery]}).total() if total else 0 for battery in raw["batteries"]]
    counts[0] += total - sum(counts)
    return counts
