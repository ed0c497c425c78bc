"""Ageing of many cells: accumulation of stress by reading or time step, and update of the losses by day or sub-cycle.

    stress = begin(soc)                                              # at the start of a day or sub-cycle
    stress = accumulate(stress, model, soc, temperature_c, throughput, days)      # for each time step
    ageing = advance(ageing, stress, model, speed)                   # at its end
    capacity(ageing), resistance(ageing)                             # relative to the new cell

These are compiled functions on one cell, for use in other compiled loops; `accumulate_all` and `advance_all` apply
them to arrays of cells, and `replay` to a recorded history.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from physics.ageing import lfp_cylindrical, nca_cylindrical, nmc_kokam, nmc_pouch
from physics.ageing.state import Ageing, Rates, Stress
from physics.ageing.trajectories import KELVIN_AT_0_C
from physics.compiled import compiled, compiled_entry, sources_checksum
from telemetry.chemistries import CHEMISTRY_NAMES

#: Names of the models; a model is its index.  Those of the chemistries come first, in the order of `CHEMISTRY_NAMES`.
MODELS: tuple[str, ...] = (*CHEMISTRY_NAMES, "NMC_knee")
_NMC, _NCA, _LFP, _NMC_KNEE = range(4)

#: Temperatures beyond these count as these: the range of the telemetry contract.
MIN_TEMPERATURE_C, MAX_TEMPERATURE_C = -50.0, 150.0
# Without its losses a cell has a little more active material than lithium; and the growth of resistance with its loss.
MATERIAL_RESERVE = 1.01
RESISTANCE_MATERIAL_BASE, RESISTANCE_MATERIAL = -0.08, 1.09
MIN_CAPACITY = 0.0
MAX_RESISTANCE = 100.0

Float = NDArray[np.float64]


@compiled
def new(model: int) -> Ageing:
    """The state of a new cell of `model`."""
    return Ageing(0.0, 0.0, nmc_kokam.NEW_MATERIAL_LOSS if model == _NMC_KNEE else 0.0, 0.0, 0.0)


@compiled
def begin(soc: float) -> Stress:
    """No stress yet, at state of charge `soc` (0..1)."""
    return Stress(0.0, 0.0, soc, soc, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


# One table by index in compiled code: numba does not cache a function that gets another as its argument.
@compiled
def _rates(model: int, soc: float, temperature_k: float) -> Rates:
    if model == _NMC:
        return nmc_pouch.rates(soc, temperature_k)
    if model == _NCA:
        return nca_cylindrical.rates(soc, temperature_k)
    if model == _LFP:
        return lfp_cylindrical.rates(soc, temperature_k)
    return nmc_kokam.rates(soc, temperature_k)


@compiled
def _advance(model: int, before: Ageing, stress: Stress, swing: float, c_rate: float, speed: float) -> Ageing:
    if model == _NMC:
        return nmc_pouch.advance(before, stress, swing, c_rate, speed)
    if model == _NCA:
        return nca_cylindrical.advance(before, stress, swing, c_rate, speed)
    if model == _LFP:
        return lfp_cylindrical.advance(before, stress, swing, c_rate, speed)
    return nmc_kokam.advance(before, stress, swing, c_rate, speed)


@compiled
def accumulate(stress: Stress, model: int, soc: float, temperature_c: float, throughput: float, days: float) -> Stress:
    """`stress` with a time step added.

    `soc` (0..1) and `temperature_c` hold over its `days`; `throughput` is the charge in both directions over twice
    the new capacity, that is in equivalent full cycles.
    """
    level = min(max(soc, 0.0), 1.0)
    limited_c = min(max(temperature_c, MIN_TEMPERATURE_C), MAX_TEMPERATURE_C)
    now = _rates(model, level, limited_c + KELVIN_AT_0_C)
    return Stress(
        stress.days + days,
        stress.throughput + throughput,
        min(stress.soc_low, level),
        max(stress.soc_high, level),
        stress.temperature_c + limited_c * days,
        stress.soc + level * days,
        stress.calendar + now.calendar * days,
        stress.calendar_exponent + now.calendar_exponent * days,
        stress.cycling + now.cycling * days,
        stress.resistance_temperature + now.resistance_temperature * days,
        stress.resistance_soc + now.resistance_soc * days,
    )


@compiled
def advance(before: Ageing, stress: Stress, model: int, speed: float) -> Ageing:
    """The losses after `stress`, of a cell that ages `speed` times as fast as the typical one of its model.

    `speed` multiplies time and throughput, as BLAST-Lite's degradation scalar multiplies every increment.  No
    component falls; without duration nothing changes.
    """
    if stress.days <= 0.0:
        return before
    c_rate = 2.0 * stress.throughput / (24.0 * stress.days)
    return _advance(model, before, stress, stress.soc_high - stress.soc_low, c_rate, speed)


@compiled
def capacity(ageing: Ageing) -> float:
    """Capacity relative to the new cell: lithium or active material, whichever is less."""
    lithium = 1.0 - ageing.calendar_loss - ageing.cycling_loss
    return max(min(lithium, MATERIAL_RESERVE - ageing.material_loss), MIN_CAPACITY)


@compiled
def resistance(ageing: Ageing) -> float:
    """Resistance relative to the new cell, at most `MAX_RESISTANCE`."""
    film = 1.0 + ageing.resistance_calendar + ageing.resistance_cycling
    material = RESISTANCE_MATERIAL_BASE + RESISTANCE_MATERIAL / (MATERIAL_RESERVE - ageing.material_loss)
    return min(max(film, material), MAX_RESISTANCE)


@compiled
def ageing_in(values: Float) -> Ageing:
    """The losses in an array."""
    return Ageing(values[0], values[1], values[2], values[3], values[4])


@compiled
def stress_in(values: Float) -> Stress:
    """The stress in an array."""
    return Stress(
        values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7], values[8], values[9],
        values[10],
    )  # fmt: skip


@compiled
def store(target: Float, values: Ageing | Stress) -> None:
    """Write losses or stress into an array."""
    for column in range(len(values)):
        target[column] = values[column]


@compiled_entry
def accumulate_all(
    stress: Float, models: NDArray[np.int64], soc: Float, temperature_c: Float, throughput: Float, days: float
) -> None:
    """`accumulate` on n cells, in place.

    `stress` has shape (n, fields of `Stress`), the others (n,); `days` is the length of the time step.
    """
    for cell in range(models.size):
        now = accumulate(stress_in(stress[cell]), models[cell], soc[cell], temperature_c[cell], throughput[cell], days)
        store(stress[cell], now)


@compiled_entry
def advance_all(ageing: Float, stress: Float, models: NDArray[np.int64], speed: Float, soc: Float) -> None:
    """`advance` on n cells, in place; then the stress begins anew at `soc`.

    `ageing` and `stress` have shape (n, fields), the others (n,).
    """
    for cell in range(models.size):
        store(ageing[cell], advance(ageing_in(ageing[cell]), stress_in(stress[cell]), models[cell], speed[cell]))
        store(stress[cell], begin(soc[cell]))


@compiled_entry
def replay(model: int, time_s: Float, soc: Float, temperature_c: Float, steps_per_update: int, speed: float) -> Float:
    """Capacity and resistance, of shape (updates + 1, 2), of a new cell over a recorded history of shape (samples,).

    `soc` is relative to the present capacity, so the throughput of the same swing falls with it.  The losses are
    updated after every `steps_per_update` intervals; intervals that do not fill the last update are left out.
    """
    updates = (time_s.size - 1) // steps_per_update
    result = np.empty((updates + 1, 2))
    ageing = new(model)
    result[0] = capacity(ageing), resistance(ageing)
    index = 0
    for update in range(updates):
        stress, present = begin(soc[index]), capacity(ageing)
        for index in range(index + 1, (update + 1) * steps_per_update + 1):  # noqa: B020
            throughput = 0.5 * abs(soc[index] - soc[index - 1]) * present
            days = (time_s[index] - time_s[index - 1]) / 86_400.0
            stress = accumulate(stress, model, soc[index], temperature_c[index], throughput, days)
        ageing = advance(ageing, stress, model, speed)
        result[update + 1] = capacity(ageing), resistance(ageing)
    return result


_SOURCES = sources_checksum("physics")


@compiled_entry
def _compiled_sources() -> int:
    return _SOURCES


def drop_stale_code() -> None:
    """Recompile the functions on arrays if their cached machine code was made from other sources; call it once."""
    if _compiled_sources() != _SOURCES:
        for entry in (accumulate_all, advance_all, replay, _compiled_sources):
            cast(Any, entry).recompile()
