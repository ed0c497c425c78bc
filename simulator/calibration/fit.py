"""Least-squares fit of a `CalibratedCell` to some of a battery's discharges: the circuit, then the thermal model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares

from simulator.calibration.circuit import Circuit, Thermal, run
from simulator.calibration.discharges import Discharge, Measured
from simulator.calibration.model import CalibratedCell, Trend, basis, ocv_table, predict, recovery
from telemetry.chemistries import chemistry
from telemetry.errors import TwinError

FloatArray = NDArray[np.float64]

FEWEST_DISCHARGES = 5
#: Activation temperature of the resistances; fixed, since one ambient temperature does not identify it.
ACTIVATION_K = 2500.0
#: Surface share of the heat capacity, from Lin et al. 2014 (doi:10.1016/j.jpowsour.2014.01.097): 4.5 of 67.2 J/K.
SURFACE_SHARE = 4.5 / 67.2
#: Weight of readings at rest beside 1 for those under load, which are scored: the circuit relaxes less well.
REST_WEIGHT = 0.1
#: Error of the circuit, V, at which the prior knowledge weighs as much as the readings of one discharge.
MODEL_ERROR_V = 0.01
_OCV_SOC = np.array([0, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
_SHAPE_SOC = np.array([0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
_HALF = 9
_ENTROPIC_SOC = np.linspace(0.0, 1.0, 7)
_NOTHING = np.empty(0)
_NO_THERMAL = Thermal(1.0, 1.0, 1.0, 1.0, np.zeros(2))

Progress = Callable[[str], None]


def fit(measured: Measured, used: Sequence[int], progress: Progress = lambda _: None) -> CalibratedCell:
    """The cell that fits the discharges with the numbers `used` best; the others only give their time of rest.

    Raises:
        TwinError: fewer than `FEWEST_DISCHARGES` are named, or one that does not exist.
    """
    numbers = {one.number for one in measured.discharges}
    if unknown := sorted(set(used) - numbers):
        raise TwinError(
            f"{measured.battery_id} has no discharge {unknown[0]} to fit; it has {min(numbers)} to {max(numbers)}",
            field="fit_discharges",
            value=unknown[0],
        )
    if len(set(used)) < FEWEST_DISCHARGES:
        raise TwinError(
            f"{len(set(used))} discharges are to be fitted, but at least {FEWEST_DISCHARGES} are needed;"
            f" {measured.battery_id} has {len(numbers)}",
            field="fit_discharges",
        )
    chosen = [i for i, one in enumerate(measured.discharges) if one.number in set(used)]
    cell = _fit_circuit(measured, chosen, progress)
    return _fit_thermal(cell, measured.discharges, chosen, progress)


def _weights(one: Discharge) -> FloatArray:
    weights = np.where(one.loaded, 1.0, REST_WEIGHT)
    return np.asarray(weights / np.sqrt(np.sum(weights**2)), dtype=np.float64)


def _fit_circuit(measured: Measured, chosen: Sequence[int], progress: Progress) -> CalibratedCell:
    """Open-circuit voltage, resistances, time constants and their trend, at the measured temperatures."""
    discharges = measured.discharges
    starting = chemistry(measured.chemistry)
    start_v = np.asarray(PchipInterpolator(starting.ocv_soc, starting.ocv_v)(_OCV_SOC), dtype=np.float64)
    steps_v = np.maximum(np.diff(start_v), 1e-3)
    knots = np.linspace(
        discharges[chosen[0]].number, discharges[chosen[-1]].number, int(np.clip(len(chosen) // 5, 2, 8))
    )
    of_knots = basis(np.array([float(one.number) for one in discharges]), knots)
    rest_h = np.array([one.rest_h for one in discharges])
    usual_h = float(np.median(rest_h[1:])) if len(rest_h) > 1 else 0.0
    weights = {i: _weights(discharges[i]) for i in chosen}
    nominal = measured.nominal_capacity_ah
    # A discharge to the cutoff leaves a little: start from 3 % more than it delivered.
    delivered_ah = [float(np.trapezoid(discharges[i].current_a, discharges[i].time_s)) / 3600.0 for i in chosen]
    fitted_numbers = [float(discharges[i].number) for i in chosen]
    start_capacity = np.log(1.03 * np.interp(knots, fitted_numbers, delivered_ah))
    # name: (start, lower, upper, standard deviation of the prior or infinity)
    blocks: dict[str, tuple[FloatArray, float, float, float]] = {
        "top": (np.array([start_v[-1]]), start_v[-1] - 0.1, start_v[-1] + 0.1, 0.03),
        "ocv": (np.zeros(len(steps_v)), -4.0, 4.0, 2.0),
        "shape": (np.zeros(len(_SHAPE_SOC) - 1), -4.0, 4.0, 2.0),
        "ohm": (np.log(np.array([0.12, 0.05, 0.06]) / nominal), -9.0, 2.0, 1.5),
        "time": (np.log([30.0, 600.0]), np.log(3.0), np.log(5000.0), 0.7),
        "capacity": (start_capacity, start_capacity.min() - 0.7, start_capacity.max() + 0.7, np.inf),
        "growth": (np.zeros(len(knots) - 1), -1.5, 2.5, np.inf),
        "recovered": (np.array([0.02, 0.0]), -1.0, 1.0, 0.2),
        "recovery": (np.array([np.log(24.0), 0.85]), 0.3, 5.0, np.inf),
    }
    ends = np.cumsum([len(start) for start, *_ in blocks.values()])
    start = np.concatenate([block[0] for block in blocks.values()])
    lower = np.concatenate([np.full(len(s), low) for s, low, *_ in blocks.values()])
    upper = np.concatenate([np.full(len(s), high) for s, _, high, _ in blocks.values()])
    lower[-1], upper[-1] = 0.3, 0.98
    spread = np.concatenate([np.full(len(s), deviation) for s, *_, deviation in blocks.values()])
    table_soc = np.linspace(0.0, 1.0, 1001)

    def unpack(p: FloatArray) -> dict[str, FloatArray]:
        return dict(zip(blocks, np.split(p, ends[:-1]), strict=True))

    def ocv(q: dict[str, FloatArray]) -> FloatArray:
        down = np.concatenate([[0.0], np.cumsum((steps_v * np.exp(q["ocv"]))[::-1])])[::-1]
        return np.asarray(q["top"][0] - down, dtype=np.float64)

    def residuals(p: FloatArray) -> FloatArray:
        q = unpack(p)
        table, shape = ocv_table(_OCV_SOC, ocv(q)), np.exp(np.insert(q["shape"], _HALF, 0.0))
        shape_table = np.interp(table_soc, _SHAPE_SOC, shape)
        rested = recovery(rest_h, usual_h, float(np.exp(q["recovery"][0])), float(q["recovery"][1]))
        capacity = np.exp(of_knots @ q["capacity"] + q["recovered"][0] * rested)
        factor = np.exp(of_knots @ np.insert(q["growth"], 0, 0.0) + q["recovered"][1] * rested)
        ohm, seconds = np.exp(q["ohm"]), np.exp(q["time"])
        parts = []
        for i in chosen:
            one, f = discharges[i], float(factor[i])
            circuit = Circuit(
                float(capacity[i]), ohm[0] * f, ohm[1] * f, seconds[0], ohm[2] * f, seconds[1], ACTIVATION_K, table,
                shape_table,
            )  # fmt: skip
            voltage_v, _ = run(one.time_s, one.current_a, one.temperature_c, 0.0, 0.0, circuit, _NO_THERMAL)
            parts.append((voltage_v - one.voltage_v) * weights[i] / MODEL_ERROR_V)
        smooth = np.diff(np.log(shape)) / 1.0
        return np.concatenate([*parts, ((p - start) / spread)[np.isfinite(spread)], smooth])

    progress(f"circuit: {len(start)} parameters, {len(chosen)} discharges")
    solved = least_squares(residuals, start, bounds=(lower, upper), x_scale="jac", diff_step=1e-4, max_nfev=100)
    q = unpack(solved.x)
    ohm, seconds = np.exp(q["ohm"]), np.exp(q["time"])
    return CalibratedCell(
        battery_id=measured.battery_id,
        chemistry=measured.chemistry,
        ocv_soc=_OCV_SOC.tolist(),
        ocv_v=ocv(q).tolist(),
        resistance_soc=_SHAPE_SOC.tolist(),
        resistance_shape=np.exp(np.insert(q["shape"], _HALF, 0.0)).tolist(),
        series_resistance_ohm=float(ohm[0]),
        fast_resistance_ohm=float(ohm[1]),
        fast_time_s=float(seconds[0]),
        slow_resistance_ohm=float(ohm[2]),
        slow_time_s=float(seconds[1]),
        activation_temperature_k=ACTIVATION_K,
        core_heat_capacity_j_per_k=20.0 * nominal * (1.0 - SURFACE_SHARE),
        surface_heat_capacity_j_per_k=20.0 * nominal * SURFACE_SHARE,
        core_to_surface_w_per_k=0.15 * nominal,
        surface_to_ambient_w_per_k=0.03 * nominal,
        entropic_soc=_ENTROPIC_SOC.tolist(),
        entropic_v_per_k=[0.0] * len(_ENTROPIC_SOC),
        trend=Trend(
            number=knots.tolist(),
            log_capacity_ah=q["capacity"].tolist(),
            log_resistance=np.insert(q["growth"], 0, 0.0).tolist(),
            usual_rest_h=usual_h,
            recovery_time_h=float(np.exp(q["recovery"][0])),
            recovery_decay=float(q["recovery"][1]),
            recovered_log_capacity=float(q["recovered"][0]),
            recovered_log_resistance=float(q["recovered"][1]),
        ),
    )


def _fit_thermal(
    cell: CalibratedCell, discharges: Sequence[Discharge], chosen: Sequence[int], progress: Progress
) -> CalibratedCell:
    """Heat capacity, conductances and entropic coefficient; the temperature is the model's own from the first on."""
    start = np.log(
        [
            cell.core_heat_capacity_j_per_k + cell.surface_heat_capacity_j_per_k,
            cell.core_to_surface_w_per_k,
            cell.surface_to_ambient_w_per_k,
        ]
    )
    start = np.concatenate([start, np.zeros(len(_ENTROPIC_SOC))])
    spread = np.concatenate([np.full(3, 1.0), np.full(len(_ENTROPIC_SOC), 0.5)])

    def with_parameters(p: FloatArray) -> CalibratedCell:
        total, inner, outer = np.exp(p[:3])
        return cell.model_copy(
            update={
                "core_heat_capacity_j_per_k": float(total * (1.0 - SURFACE_SHARE)),
                "surface_heat_capacity_j_per_k": float(total * SURFACE_SHARE),
                "core_to_surface_w_per_k": float(inner),
                "surface_to_ambient_w_per_k": float(outer),
                # in mV/K while fitted
                "entropic_v_per_k": (p[3:] * 1e-3).tolist(),
            }
        )

    used = set(chosen)
    weights = [_weights(one) if i in used else _NOTHING for i, one in enumerate(discharges)]

    # predict() needs all discharges for the recovery: reduce those not used to their first reading.
    def short(one: Discharge) -> Discharge:
        return Discharge(
            one.number, one.start, one.rest_h, one.time_s[:1], one.current_a[:1], one.voltage_v[:1],
            one.temperature_c[:1], one.ambient_c, one.loaded[:1],
        )  # fmt: skip

    reduced = [one if i in used else short(one) for i, one in enumerate(discharges)]

    def residuals(p: FloatArray) -> FloatArray:
        predictions = predict(with_parameters(p), reduced)
        parts = [(predictions[i].temperature_c - discharges[i].temperature_c) * weights[i] for i in chosen]
        return np.concatenate([*parts, (p - start) / spread])

    progress(f"thermal model: {len(start)} parameters")
    solved = least_squares(residuals, start, x_scale="jac", diff_step=1e-4, max_nfev=30)
    return with_parameters(solved.x)
