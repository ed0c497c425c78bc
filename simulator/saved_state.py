"""Serialisation of a live battery's state and random streams as JSON, so that a restart continues it."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from datetime import datetime
from typing import Any

from simulator.ageing import Wear
from simulator.battery import Battery
from simulator.battery_physics import Activity, BatteryState
from simulator.driving import DriveState
from simulator.pack import PackState

_PARTS = {"pack": PackState, "drive": DriveState, "activity": Activity, "wear": Wear}
#: In the checksum, so that a state written with other fields is not restored.
_FIELDS = (BatteryState._fields, PackState._fields, DriveState._fields, Activity._fields, Wear._fields)


def save(battery: Battery, checksum: int) -> bytes:
    """The variable state of `battery` as JSON; floating-point numbers are exact.

    Args:
        checksum: its `design_checksum`, which is constant and slow to compute.
    """
    content = {
        "made": checksum,
        "in_service_since": battery.identity.in_service_since.isoformat(),
        "state": battery.state._asdict(),
        "chance": [stream.bit_generator.state for stream in battery.random_streams],
    }
    return json.dumps(content).encode()


def restore(battery: Battery, checksum: int, saved: bytes) -> bool:
    """Set `battery` to the state in `saved`; False, and no change, where that is of another design."""
    content: dict[str, Any] = json.loads(saved)
    if content.get("made") != checksum:
        return False
    values = {name: _PARTS[name](*value) if name in _PARTS else value for name, value in content["state"].items()}
    battery.state = BatteryState(**values)
    since = datetime.fromisoformat(content["in_service_since"])
    battery.identity = replace(battery.identity, in_service_since=since)
    for stream, state in zip(battery.random_streams, content["chance"], strict=True):
        stream.bit_generator.state = state
    return True


def design_checksum(battery: Battery) -> int:
    """Checksum of the battery's design without vehicle, driver and climate; ids repeat in other fleets."""
    design = battery.design
    parts = (_FIELDS, design.pack, design.new_capacity_ah, design.ageing, design.hazard, design.fault)
    return zlib.crc32(repr(parts).encode())
