"""Voltage and temperature of the cell model against PyBaMM's SPMe with the same parameter set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from physics.parameters import cell_parameters, stored
from validation.comparison import Comparison, compare
from validation.plots import temperature_plot, voltage_plot
from validation.profiles import VALIDATION
from validation.pybamm_reference import REFERENCES, pybamm, run
from validation.report import Result

TEMPERATURES_C = (0.0, 25.0, 40.0)
COLD_C = 10.0
BOUND_MV, COLD_BOUND_MV = 15.0, 30.0
BOUND_DEGC = 1.0


def comparisons() -> list[Comparison]:
    """Every chemistry, profile and temperature."""
    found = []
    for chemistry, reference in REFERENCES.items():
        capacity_ah = cell_parameters(stored(chemistry)).capacity_ah
        for ambient_c in TEMPERATURES_C:
            for name, profile in VALIDATION.items():
                driven = run(
                    reference,
                    profile(ambient_c < COLD_C),
                    ambient_c,
                    capacity_ah=capacity_ah,
                    thermal=reference.has_thermal,
                )
                found.append(compare(chemistry, name, ambient_c, driven))
    return found


def results(compared: Sequence[Comparison]) -> list[Result]:
    """Voltage errors of every comparison, and temperature errors where the reference warms."""
    found: list[Result] = []
    for one in compared:
        source = REFERENCES[one.chemistry]
        soc = one.reference.soc[one.compared]
        reference = (
            f"PyBaMM {pybamm().__version__} SPMe, {source.parameter_set}, "
            f"{100.0 * soc.min():.0f} to {100.0 * soc.max():.0f} % SoC"
        )
        name = f"cell_{one.chemistry.lower()}_{one.profile}_{one.ambient_c:.0f}_degc"
        bound_mv = COLD_BOUND_MV if one.ambient_c < COLD_C else BOUND_MV
        values: list[tuple[str, float, str, float | None]] = [("voltage_rmse", one.rmse_mv, "mV", bound_mv)]
        if source.has_thermal:
            values.append(("temperature_rmse", one.rmse_degc, "degC", BOUND_DEGC))
            values.append(("temperature_largest_error", one.largest_degc, "degC", None))
        found += [
            {"name": f"{name}_{what}", "value": value, "unit": unit, "bound": bound, "reference": reference}
            for what, value, unit, bound in values
        ]
    return found


def cell(folder: Path) -> list[Result]:
    """The part `cell` of the validation, with plots of voltage and temperature in `folder`."""
    compared = comparisons()
    voltage_plot(compared, folder / "cell_voltage.png")
    temperature_plot(compared, folder / "cell_temperature.png")
    return results(compared)
