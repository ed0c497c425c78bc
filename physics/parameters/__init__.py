"""Identified parameters of cells, one JSON file for each chemistry, written by `python -m validation.identify_cell`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    FloatArray,
)
from physics.thermal import ThermalParameters
from telemetry.errors import TwinError

FOLDER = Path(__file__).parent
#: Activation energy over the gas constant; that of charge transfer is about 6,000 K.
LARGEST_ACTIVATION_K = 8000.0


def available() -> list[str]:
    """Names of the chemistries with identified parameters."""
    return sorted(file.stem.upper() for file in FOLDER.glob("*.json"))


def stored(chemistry: str) -> dict[str, Any]:
    """The parameter file of a chemistry.

    Raises:
        TwinError: if the chemistry has none.
    """
    file = FOLDER / f"{chemistry.lower()}.json"
    if not file.exists():
        raise TwinError(
            f"There are no cell parameters of chemistry {chemistry}: choose one of {', '.join(available())}.",
            field="chemistry",
            value=chemistry,
        )
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def cell_parameters(content: dict[str, Any], *, hysteresis: bool = True) -> CellParameters:
    """Parameters for the cell model from the content of a parameter file; `hysteresis` False switches it off.

    Tables are expanded to even grids: linear in state of charge; in temperature by Arrhenius's law between two
    identified temperatures and, beyond them, by that of the nearest two.
    """
    soc = OCP_SOC_FIRST + OCP_SOC_STEP * np.arange(OCP_POINTS)
    positive, negative, entropic_positive, entropic_negative = (
        np.interp(soc, content["ocp_soc"], content[name])
        for name in (
            "ocp_positive_v",
            "ocp_negative_v",
            "entropic_positive_v_per_k",
            "entropic_negative_v_per_k",
        )
    )
    ocv = positive - negative
    integral = np.concatenate([[0.0], np.cumsum(0.5 * OCP_SOC_STEP * (ocv[1:] + ocv[:-1]))])
    # The charge that is counted from is 0, not the beginning of the grid.
    integral -= integral[round(-OCP_SOC_FIRST / OCP_SOC_STEP)]
    temperatures = np.array(content["temperature_c"])
    resistances = np.stack(
        [
            _by_soc(_by_temperature(np.array(content[name]), temperatures), np.array(content["soc"]))
            for name in ("transfer_ohm", "first_ohm", "second_ohm")
        ],
        axis=-1,
    )
    series_ohm = _by_temperature(np.array([content["series_ohm"]]).T, temperatures)
    # Alone among the parameters, the exchange current rises with temperature.
    exchange = 1.0 / _by_temperature(1.0 / np.array([content["exchange_c_rate"]]).T, temperatures)
    times = _by_temperature(np.array(content["time_s"]), temperatures)
    return CellParameters(
        float(content["capacity_ah"]),
        float(content["voltage_min_v"]),
        float(content["voltage_max_v"]),
        positive,
        negative,
        integral,
        entropic_positive,
        entropic_negative,
        np.ascontiguousarray(resistances),
        np.hstack([series_ohm, exchange]),
        times,
        float(content["hysteresis_v"]) if hysteresis else 0.0,
        float(content["hysteresis_rate"]),
    )


def thermal_parameters(content: dict[str, Any]) -> ThermalParameters:
    """Parameters for the thermal model from the content of a parameter file; without a coolant."""
    return ThermalParameters(**content["thermal"])


def _by_temperature(values: FloatArray, temperatures_c: FloatArray) -> FloatArray:
    """`values` float64[n, m] of n temperatures at the rows of the temperature grid."""
    inverse = 1.0 / (temperatures_c + KELVIN_AT_0_C)
    grid = 1.0 / (TEMPERATURE_FIRST_C + TEMPERATURE_STEP_C * np.arange(TEMPERATURE_POINTS) + KELVIN_AT_0_C)
    lower = np.clip(np.searchsorted(-inverse, -grid, side="right") - 1, 0, len(inverse) - 2)
    share = ((grid - inverse[lower]) / (inverse[lower + 1] - inverse[lower]))[:, None]
    logs, outside = np.log(values), (share < 0.0) | (share > 1.0)
    slope = (logs[lower + 1] - logs[lower]) / (inverse[lower + 1] - inverse[lower])[:, None]
    # Beyond the identified temperatures an activation temperature that is no more than noise would run away.
    slope = np.where(outside, np.clip(slope, 0.0, LARGEST_ACTIVATION_K), slope)
    nearest = np.where(share > 1.0, logs[lower + 1], logs[lower])
    start = np.where(share > 1.0, inverse[lower + 1][:, None], inverse[lower][:, None])
    return np.asarray(np.exp(nearest + slope * (grid[:, None] - start)))


def _by_soc(values: FloatArray, soc: FloatArray) -> FloatArray:
    grid = RESISTANCE_SOC_STEP * np.arange(RESISTANCE_POINTS)
    return np.array([np.interp(grid, soc, row) for row in values])
