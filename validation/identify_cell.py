"""Identification of the cell parameters of a chemistry from PyBaMM's SPMe, written to `physics/parameters/`.

    python -m validation.identify_cell --chemistry NMC

The open-circuit potentials are those of the parameter set.  The rest is fitted at each temperature to isothermal runs
of pulses, a drive cycle (US06) and constant currents, none of which is used for validation: time constants and exchange
current by nonlinear least squares, and for each candidate the resistances by linear ones, as the voltage is linear in
them (variable projection, Golub and Pereyra 1973, doi:10.1137/0710036).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.optimize import least_squares, nnls
from scipy.signal import lfilter

from physics.cell import LEAD, MODE_SHARES, MODE_TIMES, OCP_POINTS, OCP_SOC_FIRST, OCP_SOC_STEP
from physics.parameters import FOLDER
from validation.literature import HYSTERESIS, THERMAL
from validation.profiles import identification
from validation.pybamm_reference import REFERENCES, OpenCircuit, Run, open_circuit, pybamm, run

FloatArray = NDArray[np.float64]
#: Degrees Celsius; from the second on, a fit starts from the result of the one before as well.
TEMPERATURES_C = (25.0, 30.0, 40.0, 50.0, 20.0, 15.0, 10.0, 5.0, 0.0)
COLD_C = 10.0
SOC_KNOTS = np.array([0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
_OCP_SOC = OCP_SOC_FIRST + OCP_SOC_STEP * np.arange(OCP_POINTS)
#: RC pairs 1 and 2 and diffusion in the positive and negative electrode, s; exchange current, C-rate.
#: The slow electrode may be either.
_STARTS = (np.array([15.0, 200.0, 30.0, 300.0, 1.0]), np.array([15.0, 200.0, 300.0, 50.0, 1.0]))
_LOWEST, _HIGHEST = np.array([2.0, 20.0, 0.5, 0.5, 0.05]), np.array([300.0, 1500.0, 2500.0, 2500.0, 20.0])
_COMPARED_SOC = (0.04, 0.96)
_SMOOTHNESS, _RIDGE = 1e-3, 1e-9
_SMALLEST_SHARE = 1e-3


class Fit(NamedTuple):
    """Result at one temperature: resistances, ohm times Ah, float64[knots], and root mean square errors, V."""

    shape: FloatArray
    series: float
    transfer: FloatArray
    first: FloatArray
    second: FloatArray
    rmse_v: dict[str, float]


def design(shape: FloatArray, reference: Run, opened: OpenCircuit) -> tuple[FloatArray, FloatArray]:
    """Overpotential of a run, V, and the matrix with which the resistances give it."""
    first_s, second_s, positive_s, negative_s, exchange = shape
    rate = reference.current_a / opened.capacity_ah
    mean_rate = np.concatenate([[0.0], 0.5 * (rate[1:] + rate[:-1])])

    def lead(time_s: float) -> FloatArray:
        modes = [part * _filtered(mean_rate, time_s * of) for part, of in zip(MODE_SHARES, MODE_TIMES, strict=True)]
        return np.asarray(LEAD / 3600.0 * time_s * sum(modes))

    positive_soc, negative_soc = reference.soc - lead(positive_s), reference.soc - lead(negative_s)
    electrodes_v = np.interp(positive_soc, _OCP_SOC, opened.positive_v) - np.interp(
        negative_soc, _OCP_SOC, opened.negative_v
    )
    hats = _hats(np.clip(negative_soc, 0.0, 1.0))
    transfer = exchange * np.arcsinh(rate / exchange)
    pairs = [hats * _filtered(mean_rate, time_s)[:, None] for time_s in (first_s, second_s)]
    return electrodes_v - reference.voltage_v, np.hstack([rate[:, None], hats * transfer[:, None], *pairs])


def fit(
    runs: Mapping[str, Run], opened: OpenCircuit, limits_v: tuple[float, float], starts: Sequence[FloatArray]
) -> Fit:
    """Fit one temperature, the best from `starts`; every profile has the same weight."""

    def systems(shape: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
        parts = []
        for one in runs.values():
            drop_v, matrix = design(shape, one, opened)
            compared = (one.soc > _COMPARED_SOC[0]) & (one.soc < _COMPARED_SOC[1])
            compared &= (one.voltage_v >= limits_v[0]) & (one.voltage_v <= limits_v[1])
            weight = 1.0 / np.sqrt(compared.sum())
            parts.append((weight * drop_v[compared], weight * matrix[compared]))
        return parts

    def residuals(logs: FloatArray) -> FloatArray:
        parts = systems(np.exp(logs))
        resistances = _resistances(parts)
        return np.concatenate([drop_v - matrix @ resistances for drop_v, matrix in parts])

    bounds = (np.log(_LOWEST), np.log(_HIGHEST))
    tried = [least_squares(residuals, np.log(start), bounds=bounds, diff_step=0.02, max_nfev=20) for start in starts]
    found = min(tried, key=lambda one: float(one.cost))
    shape = np.exp(found.x)
    parts = systems(shape)
    resistances = _resistances(parts)
    errors = [float(np.linalg.norm(drop_v - matrix @ resistances)) for drop_v, matrix in parts]
    tables = np.maximum(resistances[1:].reshape(3, -1), _SMALLEST_SHARE * resistances.max())
    series = max(float(resistances[0]), _SMALLEST_SHARE * float(resistances.max()))
    return Fit(shape, series, tables[0], tables[1], tables[2], dict(zip(runs, errors, strict=True)))


def _filtered(values: FloatArray, time_s: float) -> FloatArray:
    keep = np.exp(-1.0 / time_s)
    return np.asarray(lfilter([1.0 - keep], [1.0, -keep], values))


def _hats(soc: FloatArray) -> FloatArray:
    """Linear interpolation between the knots as a matrix."""
    lower = np.clip(np.searchsorted(SOC_KNOTS, soc) - 1, 0, len(SOC_KNOTS) - 2)
    share = (soc - SOC_KNOTS[lower]) / (SOC_KNOTS[lower + 1] - SOC_KNOTS[lower])
    hats, rows = np.zeros((len(soc), len(SOC_KNOTS))), np.arange(len(soc))
    hats[rows, lower], hats[rows, lower + 1] = 1.0 - share, share
    return hats


def _resistances(parts: Sequence[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """Resistances >= 0 by least squares, with a small penalty on differences between neighbouring knots."""
    matrix, drop_v = np.vstack([one for _, one in parts]), np.concatenate([one for one, _ in parts])
    normal, right = matrix.T @ matrix, matrix.T @ drop_v
    size, knots = len(right), len(SOC_KNOTS)
    rough = np.zeros((size, size))
    for first in range(1, size, knots):
        differences = np.diff(np.eye(knots), axis=0)
        rough[first : first + knots, first : first + knots] = differences.T @ differences
    scale = np.trace(normal) / size
    lower = np.linalg.cholesky(normal + scale * (_SMOOTHNESS * rough + _RIDGE * np.eye(size)))
    return np.asarray(nnls(lower.T, np.linalg.solve(lower, right), maxiter=2000)[0])


def reference_runs(chemistry: str, temperature_c: float, opened: OpenCircuit, keep: Path | None) -> dict[str, Run]:
    """Isothermal runs of the identification profiles, from the folder `keep` if they are there."""
    runs = {}
    for name, profile in identification(temperature_c < COLD_C).items():
        file = keep / f"{chemistry}_{name}_{temperature_c:.0f}.npz" if keep else None
        if file and file.exists():
            stored = np.load(file)
            runs[name] = Run(**{key: stored[key] for key in Run._fields})
            continue
        reference = REFERENCES[chemistry]
        runs[name] = run(reference, profile, temperature_c, capacity_ah=opened.capacity_ah, thermal=False)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, **runs[name]._asdict())
    return runs


def parameter_file(chemistry: str, opened: OpenCircuit, fits: Mapping[float, Fit]) -> dict[str, Any]:
    """Content of the parameter file; temperatures in ascending order."""
    reference, ordered = REFERENCES[chemistry], sorted(fits)
    every = slice(None, None, 5)
    return {
        "chemistry": chemistry,
        "source": f"python -m validation.identify_cell --chemistry {chemistry}",
        "reference": f"PyBaMM {pybamm().__version__}, SPMe, parameter set {reference.parameter_set}",
        "citation": reference.citation,
        "rmse_mv": {
            f"{name}_{temperature_c:.0f}_degc": round(1e3 * value, 2)
            for temperature_c in ordered
            for name, value in fits[temperature_c].rmse_v.items()
        },
        "capacity_ah": opened.capacity_ah,
        "voltage_min_v": reference.voltage_min_v,
        "voltage_max_v": reference.voltage_max_v,
        "temperature_c": ordered,
        "soc": SOC_KNOTS.tolist(),
        "series_ohm": [fits[one].series / opened.capacity_ah for one in ordered],
        "exchange_c_rate": [float(fits[one].shape[4]) for one in ordered],
        "transfer_ohm": [(fits[one].transfer / opened.capacity_ah).tolist() for one in ordered],
        "first_ohm": [(fits[one].first / opened.capacity_ah).tolist() for one in ordered],
        "second_ohm": [(fits[one].second / opened.capacity_ah).tolist() for one in ordered],
        "time_s": [fits[one].shape[:4].tolist() for one in ordered],
        **HYSTERESIS[chemistry].parameters(),
        **THERMAL[chemistry].parameters(opened.capacity_ah),
        "ocp_soc": _OCP_SOC[every].tolist(),
        "ocp_positive_v": opened.positive_v[every].tolist(),
        "ocp_negative_v": opened.negative_v[every].tolist(),
        "entropic_positive_v_per_k": opened.entropic_positive_v_per_k[every].tolist(),
        "entropic_negative_v_per_k": opened.entropic_negative_v_per_k[every].tolist(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Identify one chemistry and write its parameter file."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.identify_cell",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--chemistry", required=True, choices=REFERENCES)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep the reference runs there, and use those there"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER")
    options = parser.parse_args(arguments)
    reference, progress = REFERENCES[options.chemistry], Console(stderr=True)
    opened, starts = open_circuit(reference), list(_STARTS)
    fits: dict[float, Fit] = {}
    for temperature_c in TEMPERATURES_C:
        with progress.status(f"{options.chemistry} at {temperature_c:.0f} degC"):
            runs = reference_runs(options.chemistry, temperature_c, opened, options.keep)
            fits[temperature_c] = fit(runs, opened, (reference.voltage_min_v, reference.voltage_max_v), starts)
        starts = [*_STARTS, np.clip(fits[temperature_c].shape, 1.01 * _LOWEST, 0.99 * _HIGHEST)]
        errors = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in fits[temperature_c].rmse_v.items())
        progress.print(f"{options.chemistry} at {temperature_c:.0f} degC, error in mV: {errors}")
        progress.print("  s, s, s, s, C-rate:", np.round(fits[temperature_c].shape, 2))
    content = _rounded(parameter_file(options.chemistry, opened, fits))
    file = options.out / f"{options.chemistry.lower()}.json"
    file.write_text(_lines(content), encoding="utf-8")
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with one line for each entry."""
    entries = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return f"{{\n{entries}\n}}\n"


if __name__ == "__main__":
    sys.exit(main())
