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

from telemetry.chemistries import CHEMISTRY_NAMES, DEFAULT_CHEMISTRY
from telemetry.contract import SIGNALS
from telemetry.errors import TwinError

FloatArray = NDArray[np.float64]

#: Version of the state update; increment when the layout or the meaning of any slot changes.
STATE_VERSION = 1

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


class StateError(TwinError):
    """Raised for a serialised state that cannot be used; the battery's history has to be replayed."""


class _Layout:
    """Allocates consecutive slots of the row."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, count: int = 1) -> int:
        start = self.size
        self.size += count
        return start


_layout = _Layout()
# Battery properties.
NOMINAL_CAPACITY_AH = _layout.take()
CELLS_IN_SERIES = _layout.take()
CHEMISTRY = _layout.take()
# The newest reading.
TIME_S = _layout.take()
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
CYCLES = _layout.take()
CYCLES_SEEN = _layout.take()
LAST_CYCLE_INDEX = _layout.take()
# Exponential means over time since the last gap.
SEGMENT_START_S = _layout.take()
TAU_WEIGHT = _layout.take(N_TAU)
TAU_C_RATE = _layout.take(N_TAU)
TAU_C_RATE_SQUARE = _layout.take(N_TAU)
TAU_TEMPERATURE = _layout.take(N_TAU)
TAU_VOLTAGE = _layout.take(N_TAU)
# The open session.
SESSION_DIRECTION = _layout.take()
SESSION_START_S = _layout.take()
SESSION_START_TEMPERATURE_C = _layout.take()
SESSION_FIRST_VOLTAGE_V = _layout.take()
SESSION_CAPACITIES = _layout.take()
SESSION_SECONDS = _layout.take()
SESSION_VOLTAGE_SUM = _layout.take()
SESSION_TEMPERATURE_SUM = _layout.take()
SESSION_SPREAD_SUM = _layout.take()
SESSION_SPREAD_SECONDS = _layout.take()
SESSION_COVARIANCE = _layout.take()
SESSION_VARIANCE = _layout.take()
SESSION_WINDOWS = _layout.take(N_WINDOWS)
# History of each signal over cycles.
SIGNAL_LAST = _layout.take(N_SIGNALS)
SIGNAL_INDEX = _layout.take(N_SIGNALS)
SIGNAL_FIRST_INDEX = _layout.take(N_SIGNALS)
SIGNAL_COUNT = _layout.take(N_SIGNALS)
SIGNAL_REFERENCE = _layout.take(N_SIGNALS)
SIGNAL_MEAN = _layout.take(N_SIGNALS * N_HALF_LIVES)
SIGNAL_WEIGHT = _layout.take(N_SIGNALS * N_HALF_LIVES)
SIGNAL_DEVIATION = _layout.take(N_SIGNALS)
SIGNAL_DEVIATION_WEIGHT = _layout.take(N_SIGNALS)

STATE_SIZE = _layout.size

_MISSING_AT_FIRST = (
    NOMINAL_CAPACITY_AH,
    TIME_S,
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
    SEGMENT_START_S,
)


def new_states(count: int) -> FloatArray:
    """Initial states of `count` batteries, float64[count, STATE_SIZE]."""
    states = np.zeros((count, STATE_SIZE))
    states[:, _MISSING_AT_FIRST] = np.nan
    states[:, SIGNAL_LAST : SIGNAL_LAST + N_SIGNALS] = np.nan
    states[:, CELLS_IN_SERIES] = 1.0
    states[:, CHEMISTRY] = CHEMISTRY_NAMES.index(DEFAULT_CHEMISTRY)
    return states


def set_battery(
    state: FloatArray,
    *,
    nominal_capacity_ah: float | None = None,
    cells_in_series: float | None = None,
    chemistry: str | None = None,
) -> None:
    """Set the battery properties in `state`; those not given are left unchanged.

    Raises:
        TwinError: if `chemistry` is not an entry of `telemetry.chemistries`.
    """
    if nominal_capacity_ah is not None and nominal_capacity_ah == nominal_capacity_ah:
        state[NOMINAL_CAPACITY_AH] = nominal_capacity_ah
    if cells_in_series is not None and cells_in_series == cells_in_series:
        state[CELLS_IN_SERIES] = cells_in_series
    if chemistry:
        if chemistry.upper() not in CHEMISTRY_NAMES:
            known = ", ".join(CHEMISTRY_NAMES)
            raise TwinError(
                f"unknown chemistry {chemistry!r}: give one of {known}, or leave it out",
                field="chemistry",
                value=chemistry,
            )
        state[CHEMISTRY] = CHEMISTRY_NAMES.index(chemistry.upper())


_HEADER = struct.Struct("<4sHI")
_MAGIC = b"EVTW"
_PLAIN_BYTES = STATE_SIZE * 8


def to_bytes(state: FloatArray) -> bytes:
    """One state as bytes of fixed length: version, checksum and content."""
    content = state.astype("<f8").tobytes()
    return _HEADER.pack(_MAGIC, STATE_VERSION, zlib.crc32(content)) + content


def from_bytes(raw: bytes, remedy: str = "replay the battery's history") -> FloatArray:
    """The state encoded in `raw`, bit for bit.

    Raises:
        StateError: if the bytes are damaged or of another `STATE_VERSION`; the message ends with `remedy`.
    """
    try:
        magic, version, checksum = _HEADER.unpack_from(raw)
    except struct.error as error:
        raise StateError(f"this is not a state returned by the service: {remedy}", field="state") from error
    content = raw[_HEADER.size :]
    if magic != _MAGIC or zlib.crc32(content) != checksum:
        raise StateError(f"the state is damaged (its checksum differs): {remedy}", field="state")
    if version != STATE_VERSION:
        raise StateError(
            f"the state is of version {version}, this code needs version {STATE_VERSION}: {remedy}",
            field="state",
            value=version,
        )
    if len(content) != _PLAIN_BYTES:  # states used to be in the container of zlib
        try:
            content = zlib.decompressobj().decompress(content, _PLAIN_BYTES + 1)
        except zlib.error as error:
            raise StateError(f"the state is damaged: {remedy}", field="state") from error
    if len(content) != _PLAIN_BYTES:
        raise StateError(f"the state holds {len(content)} bytes instead of {_PLAIN_BYTES}: {remedy}", field="state")
    return np.frombuffer(content, dtype="<f8").copy()


def encode(state: FloatArray) -> str:
    """One state as opaque text: base64 of `to_bytes`."""
    # Not compressed: deflating halves the text, but takes longer than the state update and four forests together.
    return base64.b64encode(to_bytes(state)).decode("ascii")


def decode(text: str) -> FloatArray:
    """The state encoded in `text`, bit for bit.

    Raises:
        StateError: if the text is damaged or of another `STATE_VERSION`.
    """
    history = "leave `state` out and send the battery's history instead"
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StateError(f"this is not a state returned by the service: {history}", field="state") from error
    return from_bytes(raw, history)


@dataclass(frozen=True)
class StateView:
    """Named values of a state, for callers that do not use its layout."""

    time_s: float
    temperature_c: float
    cycles: float
    cycles_seen: int
    has_reading: bool


def view(state: FloatArray) -> StateView:
    """Named values of one state; `cycles` counts equivalent full cycles."""
    return StateView(
        time_s=float(state[TIME_S]),
        temperature_c=float(state[TEMPERATURE_C]),
        cycles=float(state[CYCLES]),
        cycles_seen=int(state[CYCLES_SEEN]),
        has_reading=bool(state[TIME_S] == state[TIME_S]),
    )
