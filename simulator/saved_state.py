"""What a living battery has to know to go on after it was interrupted: its state and its streams of chance."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from datetime import datetime
from typing import Any

from simulator.ageing import Wear
from simulator.battery import Battery
from simulator.driving import DriveState
from simulator.life import Activity, LifeState
from simulator.pack import PackState

_PARTS = {"pack": PackState, "drive": DriveState, "activity": Activity, "wear": Wear}
#: A memory that another version of these wrote is not taken over.
_FIELDS = (LifeState._fields, PackState._fields, DriveState._fields, Activity._fields, Wear._fields)


def remember(battery: Battery, made: int) -> bytes:
    """All that changes in its life, as JSON; numbers are kept to the last bit.

    Args:
        made: what `made_of` gives for it, which is for ever and takes longer than the rest.
    """
    content = {
        "made": made,
        "in_service_since": battery.identity.in_service_since.isoformat(),
        "state": battery.state._asdict(),
        "chance": [stream.bit_generator.state for stream in battery.chance],
    }
    return json.dumps(content).encode()


def recall(battery: Battery, made: int, memory: bytes) -> bool:
    """Let `battery` go on where `memory` was taken; False, and nothing is changed, where it is of another design."""
    content: dict[str, Any] = json.loads(memory)
    if content.get("made") != made:
        return False
    values = {name: _PARTS[name](*value) if name in _PARTS else value for name, value in content["state"].items()}
    battery.state = LifeState(**values)
    since = datetime.fromisoformat(content["in_service_since"])
    battery.identity = replace(battery.identity, in_service_since=since)
    for stream, state in zip(battery.chance, content["chance"], strict=True):
        stream.bit_generator.state = state
    return True


def made_of(battery: Battery) -> int:
    """Checksum of what it is made of, whoever drives it: another fleet has other batteries of the same name."""
    own = battery.design
    return zlib.crc32(repr((_FIELDS, own.pack, own.new_capacity_ah, own.ageing, own.hazard, own.fault)).encode())
