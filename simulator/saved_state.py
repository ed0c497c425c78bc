"""Serialisation of a live battery's state and random streams as JSON, so that a restart continues it."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from physics.ageing.state import Ageing, Stress
from physics.cell import CellState
from physics.thermal import ThermalState
from simulator.battery import Battery
from simulator.battery_state import Activity, BatteryState
from simulator.driving import DriveState
from simulator.faults import Defect

_PARTS = {"drive": DriveState, "activity": Activity, "defect": Defect}
_ARRAYS = ("groups", "ageing", "stress")
#: In the checksum, so that a state written with other fields is not restored.
_FIELDS = (
    BatteryState._fields,
    CellState._fields,
    ThermalState._fields,
    Ageing._fields,
    Stress._fields,
    DriveState._fields,
    Activity._fields,
    Defect._fields,
)


def save(battery: Battery, checksum: int) -> bytes:
    """The variable state of `battery` as JSON; floating-point numbers are exact.

    Args:
        checksum: its `design_checksum`, which is constant and slow to compute.
    """
    state = battery.state._asdict()
    content = {
        "made": checksum,
        "in_service_since": battery.identity.in_service_since.isoformat(),
        "in_service_s": battery.design.in_service_s,
        "state": state | {name: state[name].tolist() for name in _ARRAYS},
        "chance": [stream.bit_generator.state for stream in battery.random_streams],
    }
    return json.dumps(content).encode()


def restore(battery: Battery, checksum: int, saved: bytes) -> bool:
    """Set `battery` to the state in `saved`; False, and no change, where that is of another design."""
    content: dict[str, Any] = json.loads(saved)
    if content.get("made") != checksum:
        return False
    values = {name: _PARTS[name](*value) if name in _PARTS else value for name, value in content["state"].items()}
    battery.state = BatteryState(**values | {name: np.array(values[name]) for name in _ARRAYS})
    since = datetime.fromisoformat(content["in_service_since"])
    battery.identity = replace(battery.identity, in_service_since=since)
    battery.design = battery.design._replace(in_service_s=content["in_service_s"])
    for stream, state in zip(battery.random_streams, content["chance"], strict=True):
        stream.bit_generator.state = state
    return True


def design_checksum(battery: Battery) -> int:
    """Checksum of the battery's pack, ageing and faults, without its vehicle, driver and climate; ids repeat in other
    fleets.
    """
    design = battery.design
    checksum = zlib.crc32(repr((_FIELDS, design.plan)).encode())
    for part in (design.pack, design.ageing, design.hazards):
        checksum = zlib.crc32(_bytes_of(part), checksum)
    return checksum


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, tuple):
        return b"".join(_bytes_of(part) for part in value)
    return np.asarray(value, dtype=np.float64).tobytes()
