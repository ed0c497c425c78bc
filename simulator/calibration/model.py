"""Calibrated cell: fitted parameters and their trend over the discharges, as JSON, and its run.

A prediction uses the current, the first temperature, the ambient temperature and the time of each discharge, a full
cell at its start, and the trend of capacity and resistance; never a measured voltage, nor a later temperature.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.interpolate import PchipInterpolator

from simulator.calibration.circuit import Circuit, Thermal, run
from telemetry.errors import TwinError

if TYPE_CHECKING:
    from simulator.calibration.discharges import Discharge

FloatArray = NDArray[np.float64]

TABLE_POINTS = 1001
FORMAT: Literal["calibrated-cell/1"] = "calibrated-cell/1"
_NO_MEASUREMENT = np.empty(0)


class Trend(BaseModel):
    """Capacity and resistance over the discharges: piecewise linear in their logarithms, and recovery after rest.

    A rest that is longer than `usual_rest_h` returns capacity for some discharges, as on the NASA cells:
    recovery = decay * recovery + 1 - exp(-excess / recovery_time_h).
    Beyond the first and last number the first and last slopes continue.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: list[float] = Field(min_length=2)
    log_capacity_ah: list[float]
    log_resistance: list[float]
    usual_rest_h: float
    recovery_time_h: float = Field(gt=0)
    recovery_decay: float = Field(ge=0, lt=1)
    recovered_log_capacity: float
    recovered_log_resistance: float

    @model_validator(mode="after")
    def _lengths(self) -> Trend:
        if not len(self.number) == len(self.log_capacity_ah) == len(self.log_resistance):
            raise ValueError("number, log_capacity_ah and log_resistance have different lengths")
        return self


class CalibratedCell(BaseModel):
    """Parameters of one battery's cell; resistances of its first discharge, at 25 degC and half charge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["calibrated-cell/1"] = FORMAT
    battery_id: str
    chemistry: str
    ocv_soc: list[float]
    ocv_v: list[float]
    resistance_soc: list[float]
    resistance_shape: list[float]
    series_resistance_ohm: float = Field(gt=0)
    fast_resistance_ohm: float = Field(gt=0)
    fast_time_s: float = Field(gt=0)
    slow_resistance_ohm: float = Field(gt=0)
    slow_time_s: float = Field(gt=0)
    activation_temperature_k: float
    core_heat_capacity_j_per_k: float = Field(gt=0)
    surface_heat_capacity_j_per_k: float = Field(gt=0)
    core_to_surface_w_per_k: float = Field(gt=0)
    surface_to_ambient_w_per_k: float = Field(gt=0)
    entropic_soc: list[float]
    entropic_v_per_k: list[float]
    trend: Trend

    def circuit(self, capacity_ah: float, resistance_factor: float) -> Circuit:
        """Parameters of the circuit at this capacity, with the resistances times `resistance_factor`."""
        soc = np.linspace(0.0, 1.0, TABLE_POINTS)
        return Circuit(
            capacity_ah,
            self.series_resistance_ohm * resistance_factor,
            self.fast_resistance_ohm * resistance_factor,
            self.fast_time_s,
            self.slow_resistance_ohm * resistance_factor,
            self.slow_time_s,
            self.activation_temperature_k,
            ocv_table(np.array(self.ocv_soc), np.array(self.ocv_v)),
            np.interp(soc, self.resistance_soc, self.resistance_shape),
        )

    def thermal(self) -> Thermal:
        """Parameters of the thermal model."""
        soc = np.linspace(0.0, 1.0, TABLE_POINTS)
        return Thermal(
            self.core_heat_capacity_j_per_k,
            self.surface_heat_capacity_j_per_k,
            self.core_to_surface_w_per_k,
            self.surface_to_ambient_w_per_k,
            np.interp(soc, self.entropic_soc, self.entropic_v_per_k),
        )


class Prediction(NamedTuple):
    """Predicted terminal voltage, V, and surface temperature, degC, float64[n] each, and the capacity used, Ah."""

    voltage_v: FloatArray
    temperature_c: FloatArray
    capacity_ah: float


def ocv_table(soc: FloatArray, ocv_v: FloatArray) -> FloatArray:
    """Open-circuit voltage, V, at `TABLE_POINTS` evenly spaced states of charge; monotone where the points are."""
    return np.asarray(PchipInterpolator(soc, ocv_v)(np.linspace(0.0, 1.0, TABLE_POINTS)), dtype=np.float64)


def recovery(rest_h: FloatArray, usual_rest_h: float, time_h: float, decay: float) -> FloatArray:
    """Recovery after rest at each discharge, dimensionless; see `Trend`."""
    gained = 1.0 - np.exp(-np.maximum(rest_h - usual_rest_h, 0.0) / time_h)
    values = np.zeros(len(rest_h))
    for i in range(1, len(rest_h)):
        values[i] = decay * values[i - 1] + gained[i]
    return values


def basis(number: FloatArray, knots: FloatArray) -> FloatArray:
    """float64[n, knots]: weights of the knots in piecewise linear interpolation, extrapolated linearly."""
    lower = np.clip(np.searchsorted(knots, number, side="right") - 1, 0, len(knots) - 2)
    share = (number - knots[lower]) / (knots[lower + 1] - knots[lower])
    weights = np.zeros((len(number), len(knots)))
    rows = np.arange(len(number))
    weights[rows, lower], weights[rows, lower + 1] = 1.0 - share, share
    return weights


def predict(cell: CalibratedCell, discharges: Sequence[Discharge]) -> list[Prediction]:
    """Voltage and temperature of each discharge; `discharges` are all of the battery so far, in order of time."""
    trend, thermal = cell.trend, cell.thermal()
    weights = basis(np.array([float(one.number) for one in discharges]), np.array(trend.number))
    rested = recovery(
        np.array([one.rest_h for one in discharges]), trend.usual_rest_h, trend.recovery_time_h, trend.recovery_decay
    )
    capacity_ah = np.exp(weights @ np.array(trend.log_capacity_ah) + trend.recovered_log_capacity * rested)
    factor = np.exp(weights @ np.array(trend.log_resistance) + trend.recovered_log_resistance * rested)
    predictions = []
    for i, one in enumerate(discharges):
        circuit = cell.circuit(float(capacity_ah[i]), float(factor[i]))
        first_c = float(one.temperature_c[0])
        voltage_v, surface_c = run(one.time_s, one.current_a, _NO_MEASUREMENT, first_c, one.ambient_c, circuit, thermal)
        predictions.append(Prediction(voltage_v, surface_c, float(capacity_ah[i])))
    return predictions


def load_cell(file: Path) -> CalibratedCell:
    """The cell in a file that `python -m simulator.calibrate --out` wrote.

    Raises:
        TwinError: the file is not such a file.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return CalibratedCell.model_validate(stored["cell"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        else:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise TwinError(
            f"{file} is not a calibrated cell ({why}); write it with python -m simulator.calibrate --out", field="cell"
        ) from error
