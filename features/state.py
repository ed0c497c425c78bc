"""The state of one battery: a fixed row of float64 numbers, its layout and its opaque text form.

A state is a plain `float64[STATE_SIZE]` row so that numba can step it, a store can keep it and two
states can be compared bit for bit.  The text form carries the fold's version and a checksum; a
state of another version is refused, because the only honest way to move it is to replay history.
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

#: Raise when the layout or the meaning of any slot changes.
STATE_VERSION = 1

#: Inputs of one reading, in the order in which the step takes them.
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

#: Readings further apart than this are not connected: nothing is integrated across.
MAX_GAP_S = 120.0
#: Time constants of the exponential means over readings.
TIME_CONSTANTS_S: tuple[float, ...] = (120.0, 600.0, 3600.0)
#: Half-lives of the exponential means over cycles, in equivalent full cycles.
HALF_LIVES_CYCLES: tuple[float, ...] = (5.0, 20.0, 70.0, 200.0)
#: The half-life around which the mean absolute deviation is taken.
DEVIATION_HALF_LIFE = 1
#: A signal's reference, the battery's own beginning, is its mean over this many equivalent full cycles.
REFERENCE_CYCLES = 100.0

N_SIGNALS = len(SIGNALS)
N_TAU = len(TIME_CONSTANTS_S)
N_HALF_LIVES = len(HALF_LIVES_CYCLES)
N_WINDOWS = 4


class StateError(TwinError):
    """A state that cannot be continued; its history has to be replayed."""


class _Layout:
    """Hands out consecutive slots of the row."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, count: int = 1) -> int:
        start = self.size
        self.size += count
        return start


_layout = _Layout()
# The battery itself.
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
    """States of `count` batteries that have not said anything yet, shape [count, STATE_SIZE]."""
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
    """Tell `state` what its battery is made of; what is not given stays as it was.

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
                f"chemistry {chemistry!r} is not known: give one of {known}, or leave it out",
                field="chemistry",
                value=chemistry,
            )
        state[CHEMISTRY] = CHEMISTRY_NAMES.index(chemistry.upper())


_HEADER = struct.Struct("<4sHI")
_MAGIC = b"EVTW"
_PLAIN_BYTES = STATE_SIZE * 8


def encode(state: FloatArray) -> str:
    """The opaque text of one state (base64 of version, checksum and content)."""
    # Stored, not deflated: that halves the text, and takes longer than the fold and four forests together.
    return base64.b64encode(_seal(zlib.compress(_plain(state), 0))).decode("ascii")


def decode(text: str) -> FloatArray:
    """The state behind `text`, bit for bit as it was encoded.

    Raises:
        StateError: if the text is damaged or was written by another version of the fold.
    """
    replay = "leave `state` out and send the battery's history instead"
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StateError(f"this is not a state that the service gave: {replay}", field="state") from error
    content = _unseal(raw, replay)
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(content, _PLAIN_BYTES + 1)
    except zlib.error as error:
        raise StateError(f"the state is damaged: {replay}", field="state") from error
    return _from_plain(plain, replay)


def to_bytes(state: FloatArray) -> bytes:
    """One state as bytes of always the same length, for keepers that compress by themselves; see `encode`."""
    return _seal(_plain(state))


def from_bytes(raw: bytes) -> FloatArray:
    """The state behind `raw`, bit for bit.

    Raises:
        StateError: if the bytes are damaged or were written by another version of the fold.
    """
    replay = "replay the battery's history"
    return _from_plain(_unseal(raw, replay), replay)


def _plain(state: FloatArray) -> bytes:
    return state.astype("<f8").tobytes()


def _seal(content: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, STATE_VERSION, zlib.crc32(content)) + content


def _unseal(raw: bytes, remedy: str) -> bytes:
    """The content of a sealed state, after a look at its checksum and version."""
    try:
        magic, version, checksum = _HEADER.unpack_from(raw)
    except struct.error as error:
        raise StateError(f"this is not a state that the service gave: {remedy}", field="state") from error
    content = raw[_HEADER.size :]
    if magic != _MAGIC or zlib.crc32(content) != checksum:
        raise StateError(f"the state is damaged (its checksum differs): {remedy}", field="state")
    if version != STATE_VERSION:
        raise StateError(
            f"the state was written by version {version} of the fold and this is version {STATE_VERSION}: {remedy}",
            field="state",
            value=version,
        )
    return content


def _from_plain(plain: bytes, remedy: str) -> FloatArray:
    if len(plain) != _PLAIN_BYTES:
        raise StateError(f"the state holds {len(plain)} bytes instead of {_PLAIN_BYTES}: {remedy}", field="state")
    return np.frombuffer(plain, dtype="<f8").copy()


@dataclass(frozen=True)
class StateView:
    """What a caller may ask of a state without knowing its layout."""

    time_s: float
    temperature_c: float
    cycles: float
    cycles_seen: int
    has_reading: bool


def view(state: FloatArray) -> StateView:
    """A readable view of one state; `cycles` counts equivalent full cycles."""
    return StateView(
        time_s=float(state[TIME_S]),
        temperature_c=float(state[TEMPERATURE_C]),
        cycles=float(state[CYCLES]),
        cycles_seen=int(state[CYCLES_SEEN]),
        has_reading=bool(state[TIME_S] == state[TIME_S]),
    )
