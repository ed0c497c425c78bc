"""Benchmark of the simulator on one core: how many cars it can simulate live at 2 Hz."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numba.typed import List

from benchmarks.timing import median_seconds
from simulator.battery import Battery
from simulator.battery_physics import advance_all
from simulator.battery_state import NO_OVERRIDES
from simulator.fleet import SimulateParams, new_battery
from simulator.sensors import SAMPLE_SIZE

_BATTERIES, _TICKS, _TICK_S = 400, 20, 0.5
_AIM = 10_000.0
_SINCE, _AGE_DAYS = datetime(2018, 1, 1, tzinfo=UTC), 400.4


def live_fleet() -> list[dict[str, Any]]:
    """Cars that drive, at a reading every 0.5 s of each: true values of all in one call, and readings one by one."""
    batteries = [new_battery(SimulateParams(), 7, index, _SINCE) for index in range(_BATTERIES)]
    for battery in batteries:
        battery.advance_days(_AGE_DAYS)
        battery.start_log()
    states, designs = List(), List()
    for battery in batteries:
        states.append(battery.state)
        designs.append(battery.design)
    samples, ended = np.empty((_BATTERIES, SAMPLE_SIZE)), np.zeros(_BATTERIES, dtype=np.bool_)
    rng = np.random.default_rng(1)

    def true_values() -> None:
        for _ in range(_TICKS):
            advance_all(states, designs, NO_OVERRIDES, _TICK_S, samples, ended, rng)

    return [
        _measurement("true_values", _batteries_at_2_hz(true_values)),
        _measurement("readings", _batteries_at_2_hz(lambda: _read(batteries))),
    ]


def _read(batteries: list[Battery]) -> None:
    for _ in range(_TICKS):
        for battery in batteries:
            battery.read(_TICK_S)


def _batteries_at_2_hz(work: Callable[[], None]) -> float:
    """Batteries whose ticks take one core as long as the ticks last."""
    return _BATTERIES * _TICKS * _TICK_S / median_seconds(work)


def _measurement(what: str, batteries: float) -> dict[str, Any]:
    return {
        "name": f"live_fleet_{what}",
        "value": batteries,
        "unit": "batteries at 2 Hz",
        "peer": "the aim for one core",
        "peer_value": _AIM,
        "ratio": batteries / _AIM,
        "note": "`live_fleet`: simulation alone, four groups of cells a pack; `readings` pass the sensors one by one.",
    }
