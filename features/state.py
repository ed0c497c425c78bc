"""State of one battery: the layout of its fixed-size float64 row and its serialised forms.

A state is a plain `float64[STATE_SIZE]` row so that numba can update it, a database can store it and
two states can be compared bit for bit.  The serialised forms carry `STATE_VERSION` and a checksum; a
state of another version is rejected, as it cannot be converted: the battery's history has to be replayed.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.plausibility import N_KINDS
from telemetry.chemistries import CHEMISTRIES, CHEMISTRY_NAMES, DEFAULT_CHEMISTRY, PARAMETER_SETS
from telemetry.contract import BATTERY_FIELDS, EARLIEST, LATEST, SIGNALS
from telemetry.errors import TwinError

FloatArray = NDArray[np.float64]

EARLIEST_S, LATEST_S = EARLIEST.timestamp(), LATEST.timestamp()

#: Version of the state update; increment when the layout or the meaning of any slot changes.
STATE_VERSION = 3

#: Inputs of one reading, in the order expected by `features.step.step_reading`.
READING_INPUTS: tuple[str, ...] = (
    "time_s",
    "voltage",
    "current",
    "temperature",
    "soc",
    "ambient_temperature",
    "charge_cycles",
    "is_charging",
    "temperature_min",
    "cell_voltage_min",
    "cell_voltage_max",
    "speed_kmh",
)

#: Gap: readings further apart than this belong to different segments, nothing is integrated across it.
MAX_GAP_S = 120.0
#: Time constants of the exponential means over readings.
TIME_CONSTANTS_S: tuple[float, ...] = (120.0, 600.0, 3600.0)
#: Half-lives of the exponential means over cycles, in equivalent full cycles.
HALF_LIVES_CYCLES: tuple[float, ...] = (5.0, 20.0, 70.0, 200.0)
#: The half-life around which the mean absolute deviation is taken.
DEVIATION_HALF_LIFE = 1
#: A signal's reference value is its mean over the battery's first so many equivalent full cycles.
REFERENCE_CYCLES = 100.0

N_SIGNALS = len(SIGNALS)
N_TAU = len(TIME_CONSTANTS_S)
N_HALF_LIVES = len(HALF_LIVES_CYCLES)
N_WINDOWS = 4
#: States of the filtered cell besides its charge (`physics.cell.CellState`), and its covariance's upper triangle.
N_CELL, N_VARIANCES = 9, 6
#: Ranges of the estimates of the filter: state of charge, resistance and capacity relative to a new cell.
FILTER_SOC_MIN, FILTER_SOC_MAX = -0.05, 1.05
FILTER_RESISTANCE_MIN, FILTER_RESISTANCE_MAX = 0.2, 10.0
FILTER_CAPACITY_MIN, FILTER_CAPACITY_MAX = 0.4, 1.2


class StateError(TwinError):
    """Raised for a serialised state that cannot be used; the battery's history has to be replayed."""


class _Layout:
    """Allocates consecutive slots of the row, with the bounds of their values."""

    def __init__(self) -> None:
        self.size = 0
        self.minimum: list[float] = []
        self.maximum: list[float] = []
        self.may_be_missing: list[bool] = []

    def take(
        self, count: int = 1, minimum: float = -np.inf, maximum: float = np.inf, *, may_be_missing: bool = True
    ) -> int:
        start = self.size
        self.size += count
        self.minimum += [minimum] * count
        self.maximum += [maximum] * count
        self.may_be_missing += [may_be_missing] * count
        return start

    def take_field(self, name: str) -> int:
        """A slot with the bounds of a field of the table `batteries`."""
        field = next(field for field in BATTERY_FIELDS if field.name == name)
        minimum = -np.inf if field.minimum is None else field.minimum
        return self.take(1, minimum, np.inf if field.maximum is None else field.maximum)

    def take_time(self) -> int:
        return self.take(1, EARLIEST_S, LATEST_S)

    def take_count(self, count: int = 1, maximum: float = 1e15) -> int:
        return self.take(count, 0.0, maximum, may_be_missing=False)


_layout = _Layout()
# Slots that are used as an index, divisor, length or time are bounded: a state comes back from outside.
# Battery properties.
NOMINAL_CAPACITY_AH = _layout.take_field("nominal_capacity_ah")
CELLS_IN_SERIES = _layout.take_field("cells_in_series")
CHEMISTRY = _layout.take_count(maximum=len(CHEMISTRY_NAMES) - 1.0)
#: Index in `PARAMETER_SETS` + 1; 0 if the parameters of the cells are unknown.
CELL_PARAMETERS = _layout.take_count(maximum=float(len(PARAMETER_SETS)))
#: Number of slots of battery properties, the first ones.
N_PROPERTIES = _layout.size
#: Checksum of the events of the battery that the state includes; 0 for none.
EVENTS = _layout.take_count(maximum=2.0**32)
# The newest reading.
TIME_S = _layout.take_time()
#: Time of the newest reading whose voltage and current are plausible.
PLAUSIBLE_TIME_S = _layout.take_time()
#: Bits of the newest reading, see `features.plausibility`.
IMPLAUSIBLE = _layout.take_count(maximum=2.0 ** (N_KINDS + 2) - 1.0)
#: Number of readings with each of `plausibility.KINDS`.
IMPLAUSIBLE_COUNT = _layout.take_count(N_KINDS)
CELL_VOLTAGE_V = _layout.take()
C_RATE = _layout.take()
TEMPERATURE_C = _layout.take()
SOC = _layout.take()
AMBIENT_C = _layout.take()
IS_CHARGING = _layout.take()
TEMPERATURE_SPREAD_C = _layout.take()
CELL_VOLTAGE_SPREAD_V = _layout.take()
SPEED_KMH = _layout.take()
# Age.
CYCLES = _layout.take_count(maximum=1e9)
CYCLES_SEEN = _layout.take_count()
LAST_CYCLE_INDEX = _layout.take(1, 0.0, 1e9)
# The pack's own count of cycles: what is added to it, whether the next one continues the age, how many were believed,
# the time of the last of these, and a value that is not believed yet, since when and how often it was reported.
AGE_OFFSET = _layout.take(1, -1e9, 1e9, may_be_missing=False)
AGE_CONTINUES = _layout.take_count(maximum=1.0)
AGE_REPORTS = _layout.take_count()
AGE_TIME_S = _layout.take_time()
AGE_SUSPECT = _layout.take()
AGE_SUSPECT_SINCE_S = _layout.take_time()
AGE_SUSPECT_COUNT = _layout.take_count()
# Slow charges with `plausibility.CAPACITY_SIGNAL`: their number, its mean in nominal capacities, and how many in a row
# exceed it, which are in neither.
CAPACITY_CHARGES = _layout.take_count()
CAPACITY_MEAN = _layout.take(may_be_missing=False)
CAPACITY_JUMPS = _layout.take_count()
# Exponential means over time since the last gap.
SEGMENT_START_S = _layout.take_time()
TAU_WEIGHT = _layout.take_count(N_TAU, maximum=1.0 + 1e-9)
TAU_C_RATE = _layout.take(N_TAU)
TAU_C_RATE_SQUARE = _layout.take(N_TAU)
TAU_TEMPERATURE = _layout.take(N_TAU)
TAU_VOLTAGE = _layout.take(N_TAU)
# The open session.
SESSION_DIRECTION = _layout.take(1, -1.0, 1.0, may_be_missing=False)
SESSION_START_S = _layout.take_time()
SESSION_START_TEMPERATURE_C = _layout.take()
SESSION_FIRST_VOLTAGE_V = _layout.take()
SESSION_CAPACITIES = _layout.take()
SESSION_SECONDS = _layout.take_count()
SESSION_VOLTAGE_SUM = _layout.take()
SESSION_TEMPERATURE_SUM = _layout.take()
SESSION_SPREAD_SUM = _layout.take()
SESSION_SPREAD_SECONDS = _layout.take()
SESSION_COVARIANCE = _layout.take()
SESSION_VARIANCE = _layout.take()
SESSION_WINDOWS = _layout.take(N_WINDOWS)
#: 1 if in the newest session with an estimate of the resistance the voltage rose with the discharging current.
RESISTANCE_IS_NEGATIVE = _layout.take_count(maximum=1.0)
# History of each signal over cycles.
SIGNAL_LAST = _layout.take(N_SIGNALS)
SIGNAL_INDEX = _layout.take(N_SIGNALS)
SIGNAL_FIRST_INDEX = _layout.take(N_SIGNALS)
SIGNAL_COUNT = _layout.take_count(N_SIGNALS)
SIGNAL_REFERENCE = _layout.take(N_SIGNALS)
SIGNAL_MEAN = _layout.take(N_SIGNALS * N_HALF_LIVES)
SIGNAL_WEIGHT = _layout.take_count(N_SIGNALS * N_HALF_LIVES)
SIGNAL_DEVIATION = _layout.take(N_SIGNALS)
SIGNAL_DEVIATION_WEIGHT = _layout.take_count(N_SIGNALS)
# Filter of the cell model (`features.cell_filter`): times of the newest reading and of the newest correction; current
# and reported state of charge at the former; charge since the latter, C times seconds.
FILTER_TIME_S = _layout.take_time()
FILTER_TICK_S = _layout.take_time()
FILTER_C_RATE = _layout.take(1, -100.0, 100.0)
FILTER_REPORTED_SOC = _layout.take(1, 0.0, 100.0)
FILTER_CHARGE_S = _layout.take(1, -1e6, 1e6, may_be_missing=False)
# Estimates: as above.
FILTER_SOC = _layout.take(1, FILTER_SOC_MIN, FILTER_SOC_MAX)
FILTER_RESISTANCE = _layout.take(1, FILTER_RESISTANCE_MIN, FILTER_RESISTANCE_MAX)
FILTER_CAPACITY = _layout.take(1, FILTER_CAPACITY_MIN, FILTER_CAPACITY_MAX)
FILTER_VARIANCE = _layout.take(N_VARIANCES, -1.0, 1.0, may_be_missing=False)
FILTER_CELL = _layout.take(N_CELL, -1e3, 1e3, may_be_missing=False)
#: Variance of the passing error of the voltage, V^2.
FILTER_PASSING_V2 = _layout.take(1, 0.0, 1e4, may_be_missing=False)
# Residual of the voltage of a cell before the correction: averages of it, and of its square, over an hour.
FILTER_RESIDUAL_WEIGHT = _layout.take_count(maximum=1.0 + 1e-9)
FILTER_RESIDUAL_V = _layout.take(may_be_missing=False)
FILTER_RESIDUAL_V2 = _layout.take_count()
FILTER_END = _layout.size

STATE_SIZE = _layout.size
_MINIMUM, _MAXIMUM = np.array(_layout.minimum), np.array(_layout.maximum)
_MAY_BE_MISSING = np.array(_layout.may_be_missing)

_MISSING_AT_FIRST = (
    NOMINAL_CAPACITY_AH,
    CELLS_IN_SERIES,
    TIME_S,
    PLAUSIBLE_TIME_S,
    CELL_VOLTAGE_V,
    C_RATE,
    TEMPERATURE_C,
    SOC,
    AMBIENT_C,
    IS_CHARGING,
    TEMPERATURE_SPREAD_C,
    CELL_VOLTAGE_SPREAD_V,
    SPEED_KMH,
    LAST_CYCLE_INDEX,
    AGE_TIME_S,
    AGE_SUSPECT,
    AGE_SUSPECT_SINCE_S,
    SEGMENT_START_S,
    FILTER_TIME_S,
    FILTER_TICK_S,
    FILTER_C_RATE,
    FILTER_REPORTED_SOC,
    FILTER_SOC,
    FILTER_RESISTANCE,
    FILTER_CAPACITY,
)


def new_states(count: int) -> FloatArray:
    """Initial states of `count` batteries, float64[count, STATE_SIZE]."""
    states = np.zeros((count, STATE_SIZE))
    states[:, _MISSING_AT_FIRST] = np.nan
    states[:, SIGNAL_LAST : SIGNAL_LAST + N_SIGNALS] = np.nan
    states[:, CHEMISTRY] = CHEMISTRY_NAMES.index(DEFAULT_CHEMISTRY)
    return states


def set_battery(
    state: FloatArray,
    *,
    nominal_capacity_ah: float | None = None,
    nominal_voltage: float | None = None,
    cells_in_series: float | None = None,
    chemistry: str | None = None,
    cell_parameters: str | None = None,
) -> None:
    """Set the battery properties in `state`; those not given (None or NaN) are left unchanged.

    Args:
        nominal_voltage: V, of the pack; gives the number of cells in series where that is not given.
        cell_parameters: one of `PARAMETER_SETS`; switches the filter of the cell model on.

    Raises:
        TwinError: if `chemistry` is not an entry of `telemetry.chemistries`, or `cell_parameters` not one of the sets.
    """
    if cell_parameters:
        if cell_parameters.upper() not in PARAMETER_SETS:
            known = ", ".join(PARAMETER_SETS)
            raise TwinError(
                f"unknown cell_parameters {cell_parameters!r}: give one of {known}, or leave it out",
                field="cell_parameters",
                value=cell_parameters,
            )
        state[CELL_PARAMETERS] = PARAMETER_SETS.index(cell_parameters.upper()) + 1.0
    if chemistry:
        if chemistry.upper() not in CHEMISTRY_NAMES:
            known = ", ".join(CHEMISTRY_NAMES)
            raise TwinError(
                f"unknown chemistry {chemistry!r}: give one of {known}, or leave it out",
                field="chemistry",
                value=chemistry,
            )
        state[CHEMISTRY] = CHEMISTRY_NAMES.index(chemistry.upper())
    if nominal_capacity_ah is not None and nominal_capacity_ah == nominal_capacity_ah:
        state[NOMINAL_CAPACITY_AH] = nominal_capacity_ah
    if cells_in_series is not None and cells_in_series == cells_in_series:
        state[CELLS_IN_SERIES] = cells_in_series
    elif nominal_voltage is not None and nominal_voltage == nominal_voltage:
        cell_voltage = CHEMISTRIES[CHEMISTRY_NAMES[int(state[CHEMISTRY])]].nominal_voltage_v
        state[CELLS_IN_SERIES] = max(round(nominal_voltage / cell_voltage), 1)


def continue_age(state: FloatArray) -> None:
    """Let the age go on at the pack's next count of cycles, which has begun anew (event `bms_reset`)."""
    state[AGE_CONTINUES] = 1.0


def implausible_counts(states: FloatArray) -> NDArray[np.int64]:
    """int64[n, N_KINDS]: how many readings of each kind of `features.plausibility` were applied to each state."""
    return states[:, IMPLAUSIBLE_COUNT : IMPLAUSIBLE_COUNT + N_KINDS].astype(np.int64)


def properties(state: FloatArray) -> dict[str, object]:
    """The battery properties in `state`, or its first `N_PROPERTIES` slots, by their name in the table `batteries`.

    None where unknown.
    """
    capacity, cells = float(state[NOMINAL_CAPACITY_AH]), float(state[CELLS_IN_SERIES])
    return {
        "nominal_capacity_ah": None if np.isnan(capacity) else capacity,
        "cells_in_series": None if np.isnan(cells) else cells,
        "chemistry": CHEMISTRY_NAMES[int(state[CHEMISTRY])],
        "cell_parameters": (None, *PARAMETER_SETS)[int(state[CELL_PARAMETERS])],
    }


# Magic, version, checksum of the battery's id, checksum of the content.
_HEADER = struct.Struct("<4sHII")
_VERSION = struct.Struct("<4sH")
_MAGIC = b"EVTW"
_PLAIN_BYTES = STATE_SIZE * 8


def to_bytes(state: FloatArray, battery_id: str) -> bytes:
    """The state of `battery_id` as bytes of fixed length: version, checksums and content."""
    content = state.astype("<f8").tobytes()
    return _HEADER.pack(_MAGIC, STATE_VERSION, zlib.crc32(battery_id.encode()), zlib.crc32(content)) + content


def from_bytes(raw: bytes, battery_id: str, remedy: str = "replay the battery's history") -> FloatArray:
    """The state of `battery_id` encoded in `raw`, bit for bit.

    Raises:
        StateError: if the bytes are damaged, of another `STATE_VERSION` or of another battery, or if a value is out of
            its bounds; the message ends with `remedy`.
    """
    try:
        magic, version = _VERSION.unpack_from(raw)
        if magic == _MAGIC and version != STATE_VERSION:
            raise StateError(
                f"the state is of version {version}, this code needs version {STATE_VERSION}: {remedy}",
                field="state",
                value=version,
            )
        magic, version, id_checksum, checksum = _HEADER.unpack_from(raw)
    except struct.error as error:
        raise StateError(f"this is not a state returned by the service: {remedy}", field="state") from error
    content = raw[_HEADER.size :]
    if magic != _MAGIC or len(content) != _PLAIN_BYTES or zlib.crc32(content) != checksum:
        raise StateError(f"the state is damaged (its checksum differs): {remedy}", field="state")
    if id_checksum != zlib.crc32(battery_id.encode()):
        raise StateError(f"the state is that of another battery than {battery_id}: {remedy}", field="state")
    state: FloatArray = np.frombuffer(content, dtype="<f8").copy()
    inside = ((state >= _MINIMUM) & (state <= _MAXIMUM)) | (_MAY_BE_MISSING & np.isnan(state))
    if not inside.all():
        slot = int(np.argmin(inside))
        raise StateError(f"the state is damaged (slot {slot} is {state[slot]:g}): {remedy}", field="state")
    return state


def encode(state: FloatArray, battery_id: str) -> str:
    """The state of `battery_id` as opaque text: base64 of `to_bytes`."""
    # Not compressed: deflating halves the text, but takes longer than the state update and four forests together.
    return base64.b64encode(to_bytes(state, battery_id)).decode("ascii")


def decode(text: str, battery_id: str) -> FloatArray:
    """The state of `battery_id` encoded in `text`, bit for bit.

    Raises:
        StateError: as `from_bytes`.
    """
    history = "leave `state` out and send the battery's history instead"
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StateError(f"this is not a state returned by the service: {history}", field="state") from error
    return from_bytes(raw, battery_id, history)


@dataclass(frozen=True)
class StateView:
    """Named values of a state, for callers that do not use its layout.

    Attributes:
        is_used: whether a reading or cycle was applied.
    """

    time_s: float
    temperature_c: float
    cycles: float
    cycles_seen: int
    has_reading: bool
    is_used: bool


def view(state: FloatArray) -> StateView:
    """Named values of one state; `cycles` counts equivalent full cycles."""
    has_reading = bool(state[TIME_S] == state[TIME_S])
    return StateView(
        time_s=float(state[TIME_S]),
        temperature_c=float(state[TEMPERATURE_C]),
        cycles=float(state[CYCLES]),
        cycles_seen=int(state[CYCLES_SEEN]),
        has_reading=has_reading,
        is_used=has_reading or bool(state[CYCLES_SEEN] > 0.0),
    )
