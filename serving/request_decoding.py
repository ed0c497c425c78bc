"""Validates and decodes the JSON body of a prediction request into arrays for scoring."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import numpy as np
from pydantic_core import from_json

from features.state import (
    N_PROPERTIES,
    READING_INPUTS,
    FloatArray,
    StateError,
    decode,
    new_states,
    properties,
    set_battery,
    view,
)
from features.state_update import IntArray
from serving.request_scoring import ScoringRequest
from telemetry.contract import LATEST, SIGNALS
from telemetry.errors import TwinError
from telemetry.schemas.request import (
    BatteryRequest,
    ContractRow,
    EntryError,
    ParsedBattery,
    ParsedRequest,
    parse_request,
    unknown_fields,
)
from telemetry.settings import Settings
from telemetry.wire import rfc3339

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
    """Maximum size of one request, and how far ahead of the wall clock a reading may be."""

    batteries: int
    rows: int
    body_bytes: int
    future_s: float = math.inf

    @classmethod
    def of(cls, settings: Settings) -> RequestLimits:
        """Read the limits from `settings`."""
        return cls(
            settings.service_max_batteries,
            settings.service_max_rows,
            settings.service_max_body_bytes,
            settings.max_future_s,
        )


@dataclass(frozen=True)
class DecodedRequest:
    """The entries of a request that can be answered (k batteries), and the errors of the others.

    Attributes:
        entry_of: index in the request of each of the k batteries.
        notes: by battery, what was ignored in its entry.
        unknown_fields: number of ignored fields.
        out_of_range: optional values that count as missing, by field.
        errors: at least one entry can be answered.
    """

    scoring_request: ScoringRequest
    entry_of: list[int]
    notes: list[list[str]]
    unknown_fields: int
    out_of_range: Counter[str]
    errors: list[EntryError]


def decode_request(body: bytes, limits: RequestLimits) -> DecodedRequest:
    """Validate `body` against the contract and decode it.

    Raises:
        RequestError: 400 not JSON, 413 too large; 422 contract violation or 409 unusable state, if no battery can be
            answered.
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
    batteries, errors = _without_errors(request.batteries, [*request.errors], limits)
    if not batteries:
        first = min(errors, key=lambda error: error.index)
        raise RequestError(first.status, first.sentence, field=first.field, value=first.value)
    entries = [parsed.battery for parsed, _ in batteries]
    scoring_request = ScoringRequest(
        battery_ids=[entry.battery_id for entry in entries],
        states=np.array([state for _, state in batteries]),
        cycles=_cycles([cycle for entry in entries for cycle in entry.cycles]),
        cycles_of=_rows_of([entry.cycles for entry in entries]),
        readings=readings_matrix([reading for entry in entries for reading in entry.readings]),
        readings_of=_rows_of([entry.readings for entry in entries]),
        every_reading=request.every_reading,
        closed_cycles=request.closed_cycles,
        reasons=request.reasons,
    )
    unknown = unknown_fields(raw).total()
    return DecodedRequest(
        scoring_request,
        entry_of=[parsed.index for parsed, _ in batteries],
        notes=_notes([parsed for parsed, _ in batteries], raw, unknown),
        unknown_fields=unknown,
        out_of_range=Counter(value.field for parsed, _ in batteries for value in parsed.out_of_range),
        errors=errors,
    )


def _check_size(request: ParsedRequest, limits: RequestLimits) -> None:
    entries = len(request.batteries) + len(request.errors)
    if entries > limits.batteries:
        raise RequestError(
            413,
            f"a request may have at most {limits.batteries} batteries: send several requests",
            field="batteries",
            value=entries,
        )
    rows = sum(len(parsed.battery.readings) + len(parsed.battery.cycles) for parsed in request.batteries)
    if rows > limits.rows:
        raise RequestError(
            413,
            f"a request may have at most {limits.rows} readings and cycles: send the history in parts, each with the "
            "state from the response to the part before it",
            field="batteries",
            value=rows,
        )


def _without_errors(
    batteries: Sequence[ParsedBattery], errors: list[EntryError], limits: RequestLimits
) -> tuple[list[tuple[ParsedBattery, FloatArray]], list[EntryError]]:
    """The batteries that can be answered, each with its state before this request, and the errors of all others."""
    latest = _latest(limits.future_s)
    accepted: list[tuple[ParsedBattery, FloatArray]] = []
    seen: set[str] = set()
    for parsed in batteries:
        battery, path = parsed.battery, f"batteries[{parsed.index}]"
        try:
            if battery.battery_id in seen:
                raise RequestError(
                    422,
                    f"{path}.battery_id is a duplicate: send all readings of a battery in one entry",
                    field=f"{path}.battery_id",
                    value=battery.battery_id,
                )
            _check_times(battery, path, latest, limits.future_s)
            accepted.append((parsed, _state(battery, path)))
        except RequestError as error:
            errors.append(
                EntryError(parsed.index, battery.battery_id, error.status, error.sentence, error.field, error.value)
            )
        seen.add(battery.battery_id)
    return accepted, errors


def _latest(future_s: float) -> datetime:
    ahead = min(future_s, (LATEST - datetime.now(UTC)).total_seconds())
    return datetime.now(UTC) + timedelta(seconds=ahead)


def _check_times(battery: BatteryRequest, path: str, latest: datetime, future_s: float) -> None:
    readings: Sequence[Any] = battery.readings
    for i, reading in enumerate(readings):
        if reading.time > latest:
            raise RequestError(
                422,
                f"{path}.readings[{i}].time is {rfc3339(reading.time)}, more than {future_s:g} s (TWIN_MAX_FUTURE_S) "
                "in the future: correct the battery's clock",
                field=f"{path}.readings[{i}].time",
                value=rfc3339(reading.time),
            )


def _state(battery: BatteryRequest, path: str) -> FloatArray:
    """The state before this request, with the battery's capacity, cells, chemistry and cell parameters set."""
    state: FloatArray
    if battery.state is None:
        state = new_states(1)[0]
    else:
        try:
            state = decode(battery.state, battery.battery_id)
        except StateError as error:
            raise RequestError(
                409, f"{path}.state: {error.sentence}", field=f"{path}.state", value=battery.state
            ) from error
    info: Any = battery.battery
    if info is None:
        return state
    before = state[:N_PROPERTIES].copy()
    try:
        set_battery(
            state,
            nominal_capacity_ah=info.nominal_capacity_ah,
            nominal_voltage=info.nominal_voltage,
            cells_in_series=info.cells_in_series,
            chemistry=info.chemistry,
            cell_parameters=info.cell_parameters,
        )
    except TwinError as error:
        raise RequestError(422, error.sentence, field=f"{path}.battery.{error.field}", value=error.value) from error
    # Bytes, because an unknown property is NaN.
    if battery.state is not None and before.tobytes() != state[:N_PROPERTIES].tobytes() and view(state).is_used:
        made_with = properties(before)
        name, value = next((name, value) for name, value in properties(state).items() if value != made_with[name])
        raise RequestError(
            409,
            f"{path}.battery.{name} is {value}, but the state was made with {made_with[name]}: leave `state` out and "
            "send the battery's history instead",
            field=f"{path}.battery.{name}",
            value=value,
        )
    return state


def _rows_of(rows: Sequence[Sequence[ContractRow]]) -> IntArray:
    return np.array([i for i, own in enumerate(rows) for _ in own], dtype=np.int64)


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


def _notes(batteries: Sequence[ParsedBattery], raw: Mapping[str, Any], unknown: int) -> list[list[str]]:
    """By battery, notes on values out of range and unknown fields; unknown fields of the request go to the first."""
    notes: list[list[str]] = []
    for parsed in batteries:
        by_field: dict[str, list[object]] = {}
        for value in parsed.out_of_range:
            by_field.setdefault(value.field, []).append(value.value)
        notes.append([_out_of_range_note(name, values) for name, values in by_field.items()])
    if unknown:
        counts = [unknown_fields({"batteries": [raw["batteries"][parsed.index]]}).total() for parsed in batteries]
        counts[0] += unknown_fields({**raw, "batteries": ()}).total()
        for own, count in zip(notes, counts, strict=True):
            if count:
                own.append(f"{count} {'field' if count == 1 else 'fields'} not in the contract ignored")
    return notes


def _out_of_range_note(name: str, values: Sequence[object]) -> str:
    taken = "1 value" if len(values) == 1 else f"{len(values)} values"
    return f"{taken} of {name} out of range taken as missing, e.g. {values[0]}"
