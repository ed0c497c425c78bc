"""Conservation of charge and energy by the cell and thermal models, over a random day that returns to its beginning."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from physics.cell import Wear, resting, step
from physics.parameters import available, cell_parameters, stored, thermal_parameters
from physics.thermal import ThermalState, step_thermal, stored_j
from validation.report import Result

BOUND = 1e-9
_STEPS, _SEED = 5000, 11
_DRIFT_C = 10.0


def conservation(_: Path) -> list[Result]:
    """The part `conservation`: relative errors of charge, of electrical energy and of heat for each chemistry."""
    found: list[Result] = []
    for chemistry in available():
        for name, value in balance(chemistry).items():
            found.append(
                {
                    "name": f"conservation_{chemistry.lower()}_{name}",
                    "value": value,
                    "unit": "1",
                    "bound": BOUND,
                    "reference": "balance of random steps of 0.1 to 900 s with hysteresis, back to the first charge",
                }
            )
    return found


def balance(chemistry: str) -> dict[str, float]:
    """Relative errors over a closed cycle of random currents and steps.

    Charge: change of state of charge against the sum of the current.  Energy: what went in through the terminals over
    the cycle against the irreversible heat, as the cell is back where it was.  Heat: generated against stored and lost.
    """
    content, rng = stored(chemistry), np.random.default_rng(_SEED)
    cell, thermal = cell_parameters(content), thermal_parameters(content)._replace(surface_to_coolant_w_per_k=0.5)
    wear = Wear(0.9 * cell.capacity_ah, 1.3)
    dt_s = 10.0 ** rng.uniform(-1.0, np.log10(900.0), _STEPS)
    moved_ah = rng.uniform(-0.02, 0.02, _STEPS) * wear.capacity_ah
    moved_ah = np.where(np.abs(moved_ah) * 3600.0 > 2.0 * cell.capacity_ah * dt_s, 0.0, moved_ah)
    moved_ah -= moved_ah.mean()
    state, temperatures, begin_c = resting(0.5), ThermalState(20.0, 20.0), ThermalState(20.0, 20.0)
    work_j = heat_j = generated_j = lost_j = turned_over_j = charge_ah = 0.0
    for k in range(_STEPS):
        current_a = 3600.0 * moved_ah[k] / dt_s[k]
        state, output = step(state, cell, wear, current_a, temperatures.core_c, dt_s[k])
        heat_w = output.heat_w + output.entropic_heat_w
        ambient_c = 20.0 + _DRIFT_C * np.sin(k / 500.0)
        temperatures, air_j, coolant_j = step_thermal(
            temperatures, thermal, heat_w, ambient_c, 15.0, float(k % 3 == 0), dt_s[k]
        )
        work_j += output.mean_voltage_v * current_a * dt_s[k]
        turned_over_j += abs(output.mean_voltage_v * current_a * dt_s[k])
        heat_j += output.heat_w * dt_s[k]
        charge_ah += abs(moved_ah[k])
        generated_j += heat_w * dt_s[k]
        lost_j += air_j + coolant_j
    drained_ah = (0.5 - state.soc) * wear.capacity_ah
    rise_j = stored_j(temperatures, thermal) - stored_j(begin_c, thermal)
    return {
        "charge": abs(drained_ah - float(np.sum(moved_ah))) / charge_ah,
        "energy": abs(work_j + heat_j) / turned_over_j,
        "heat": abs(generated_j - rise_j - lost_j) / abs(generated_j),
    }
