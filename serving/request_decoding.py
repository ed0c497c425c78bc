"""Validates and decodes the JSON body of a prediction request into arrays for scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from pydantic_core import from_json

from features.state import READING_INPUTS, STATE_SIZE, FloatArray, StateError, decode, new_states, set_battery
from features.state_update import IntArray
from serving.request_scoring import ScoringRequest
from telemetry.contract import SIGNALS
from telemetry.errors import TwinError
from telemetry.schemas.request import BatteryRequest, ContractRow, PredictRequest, parse_request, unknown_fields
from telemetry.settings import Settings

# The state update takes time in seconds; every other input has its contract name.
_reading_values = attrgetter("time", *READING_INPUTS[1:])
_cycle_values = attrgetter("cycle_index", *SIGNALS)


class RequestError(TwinError):
    """A request that cannot be processed, with the HTTP status of the error response."""

    def __init__(self, status: int, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence, field=field, value=value)
        self.status = status


@dataclass(frozen=True)
class RequestLimits:
    """Maximum size of one request."""

    batteries: int
    rows: int
    body_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> RequestLimits:
        """Read the limits from `settings`."""
        return cls(settings.service_max_batteries, settings.service_max_rows, settings.service_max_body_bytes)


@dataclass(frozen=True)
class DecodedRequest:
    """A valid request, with the number of ignored unknown fields of each battery."""

    scoring_request: ScoringRequest
    unknown_fields: list[int]


def decode_request(body: bytes, limits: RequestLimits) -> DecodedRequest:
    """Validate `body` against the contract and decode it.

    Raises:
        RequestError: 400 not JSON, 413 too large, 422 contract violation, 409 unusable state.
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
    scoring_request = ScoringRequest(
        battery_ids=[battery.battery_id for battery in batteries],
        states=_states(batteries),
        cycles=_cycles([cycle for battery in batteries for cycle in battery.cycles]),
        cycles_of=_rows_of([battery.cycles for battery in batteries]),
        readings=readings_matrix([reading for battery in batteries for reading in battery.readings]),
        readings_of=_rows_of([battery.readings for battery in batteries]),
        every_reading=request.every_reading,
        closed_cycles=request.closed_cycles,
    )
    return DecodedRequest(scoring_request, _unknown_fields(raw))


def _check_size(request: PredictRequest, limits: RequestLimits) -> None:
    batteries = request.batteries
    if len(batteries) > limits.batteries:
        raise RequestError(
            413,
            f"a request may have at most {limits.batteries} batteries: send several requests",
            field="batteries",
            value=len(batteries),
        )
    rows = sum(len(battery.readings) + len(battery.cycles) for battery in batteries)
    if rows > limits.rows:
        raise RequestError(
            413,
            f"a request may have at most {limits.rows} readings and cycles: send the history in parts, each with the "
            "state from the response to the part before it",
            field="batteries",
            value=rows,
        )
    seen: set[str] = set()
    for i, battery in enumerate(batteries):
        if battery.battery_id in seen:
            raise RequestError(
                422,
                f"batteries[{i}].battery_id is a duplicate: send all readings of a battery in one entry",
                field=f"batteries[{i}].battery_id",
                value=battery.battery_id,
            )
        seen.add(battery.battery_id)


def _states(batteries: Sequence[BatteryRequest]) -> FloatArray:
    """The batteries' states before this request, with their capacities, cells and chemistries set."""
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


def _rows_of(rows: Sequence[Sequence[ContractRow]]) -> IntArray:
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


def readings_matrix(readings: Sequence[ContractRow]) -> FloatArray:
    """As `features.state_update.readings_matrix`, from `Reading`s instead of a DataFrame."""
    matrix = np.empty((len(readings), len(READING_INPUTS)))
    for i, reading in enumerate(readings):
        time, *values = _reading_values(reading)
        matrix[i, 0] = time.timestamp()
        matrix[i, 1:] = values  # None becomes NaN
    return matrix


def _cycles(cycles: Sequence[ContractRow]) -> FloatArray:
    rows = [_cycle_values(cycle) for cycle in cycles]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 1 + len(SIGNALS))


def _unknown_fields(raw: Mapping[str, Any]) -> list[int]:
    """Number of unknown fields of each battery; those outside of `batteries` count for the first battery."""
    total = unknown_fields(raw).total()
    counts = [unknown_fields({"batteries": [battery]}).total() if total else 0 for battery in raw["batteries"]]
    counts[0] += total - sum(counts)
    return counts
