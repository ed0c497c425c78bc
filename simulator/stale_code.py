"""Recompiles the simulation's compiled functions if their cached machine code was made from other sources."""

from __future__ import annotations

from typing import Any, cast

from physics.compiled import compiled_entry, sources_checksum
from simulator.battery_days import advance_days
from simulator.battery_physics import advance_all, record
from simulator.battery_state import condition_of, cycles, first_state, health, is_faulty, rested

_SOURCES = sources_checksum("physics", "simulator")


@compiled_entry
def _compiled_sources() -> int:
    return _SOURCES


ENTRIES = (
    cycles,
    health,
    is_faulty,
    condition_of,
    first_state,
    rested,
    record,
    advance_days,
    advance_all,
    _compiled_sources,
)


def drop_stale_code() -> None:
    """Recompile the functions that Python calls if the cached machine code was made from other sources."""
    if _compiled_sources() != _SOURCES:
        for entry in ENTRIES:
            cast(Any, entry).recompile()
