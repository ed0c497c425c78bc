"""Calibrated cell as parameters of `physics.cell`, so that the simulator runs the twin of a measured battery.

The calibrated circuit has one open-circuit voltage and resistances that are linear in the current.  It is the cell
model with one electrode, without diffusion, and with an exchange current that no current reaches.
"""

from __future__ import annotations

import numpy as np

from physics.cell import (
    KELVIN_AT_0_C,
    OCP_POINTS,
    OCP_SOC_FIRST,
    OCP_SOC_STEP,
    RESISTANCE_POINTS,
    RESISTANCE_SOC_STEP,
    TEMPERATURE_FIRST_C,
    TEMPERATURE_POINTS,
    TEMPERATURE_STEP_C,
    CellParameters,
)
from simulator.calibration.circuit import REFERENCE_K
from simulator.calibration.model import CalibratedCell, ocv_table
from telemetry.chemistries import chemistry

#: So large or short that the part of the cell model has no effect.
_LARGEST_C_RATE, _SHORTEST_S = 1e6, 1e-3


def cell_parameters(calibrated: CalibratedCell) -> CellParameters:
    """Parameters of the cell at its first discharge; voltage limits are those of its chemistry."""
    soc = OCP_SOC_FIRST + OCP_SOC_STEP * np.arange(OCP_POINTS)
    table = ocv_table(np.array(calibrated.ocv_soc), np.array(calibrated.ocv_v))
    within = np.linspace(0.0, 1.0, len(table))
    ocv = np.interp(soc, within, table)
    # As `physics.cell` does beyond its tables.
    ocv += np.minimum(soc, 0.0) * (table[1] - table[0]) / within[1]
    ocv += np.maximum(soc - 1.0, 0.0) * (table[-1] - table[-2]) / within[1]
    integral = np.concatenate([[0.0], np.cumsum(0.5 * OCP_SOC_STEP * (ocv[1:] + ocv[:-1]))])
    integral -= integral[round(-OCP_SOC_FIRST / OCP_SOC_STEP)]
    kelvin = TEMPERATURE_FIRST_C + TEMPERATURE_STEP_C * np.arange(TEMPERATURE_POINTS) + KELVIN_AT_0_C
    arrhenius = np.exp(calibrated.activation_temperature_k * (1.0 / kelvin - 1.0 / REFERENCE_K))
    shape = np.interp(
        RESISTANCE_SOC_STEP * np.arange(RESISTANCE_POINTS), calibrated.resistance_soc, calibrated.resistance_shape
    )
    ones = np.ones(RESISTANCE_POINTS)
    by_soc = np.stack(
        [
            calibrated.series_resistance_ohm * shape,
            calibrated.fast_resistance_ohm * ones,
            calibrated.slow_resistance_ohm * ones,
        ],
        axis=-1,
    )
    kind = chemistry(calibrated.chemistry)
    return CellParameters(
        capacity_ah=float(np.exp(calibrated.trend.log_capacity_ah[0])),
        voltage_min_v=kind.voltage_min_v,
        voltage_max_v=kind.voltage_max_v,
        ocp_positive_v=ocv,
        ocp_negative_v=np.zeros(OCP_POINTS),
        ocv_integral_v=integral,
        entropic_positive_v_per_k=np.interp(soc, calibrated.entropic_soc, calibrated.entropic_v_per_k),
        entropic_negative_v_per_k=np.zeros(OCP_POINTS),
        resistance_ohm=arrhenius[:, None, None] * by_soc,
        series=np.tile([0.0, _LARGEST_C_RATE], (TEMPERATURE_POINTS, 1)),
        time_s=np.tile(
            [calibrated.fast_time_s, calibrated.slow_time_s, _SHORTEST_S, _SHORTEST_S], (TEMPERATURE_POINTS, 1)
        ),
        hysteresis_v=0.0,
        hysteresis_rate=1.0,
    )
