"""Part `calibration`: error of the calibrated cell on discharges of two NASA cells that were not used for the fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulator.calibrate import chosen_discharges, errors_of, summary
from simulator.calibration.discharges import discharges_of
from simulator.calibration.fit import fit
from telemetry.sources import read_source
from validation.report import Result

BATTERIES = ("B0005", "B0006")
FIT_DISCHARGES = "every:4"
BOUND_MV = 30.0


def measure(data: Path) -> Sequence[Result]:
    """Calibrate to every fourth discharge of each battery in `data` (source nasa_pcoe) and predict the others."""
    telemetry = read_source("nasa_pcoe", data)
    results: list[Result] = []
    for battery_id in BATTERIES:
        measured = discharges_of(telemetry, battery_id)
        used = chosen_discharges(FIT_DISCHARGES, [one.number for one in measured.discharges])
        figures = summary(errors_of(fit(measured, used), measured, used))
        reference = (
            f"NASA {battery_id}, {figures['unused_discharges']:g} discharges not used for the fit; "
            f"fitted to {figures['fitted_discharges']:g}"
        )
        for name, unit, bound in (
            ("voltage_rmse_mv", "mV", BOUND_MV),
            ("voltage_rmse_worst_mv", "mV", None),
            ("temperature_rmse_c", "degC", None),
            ("temperature_rmse_worst_c", "degC", None),
        ):
            results.append(
                {
                    "name": f"calibration_{battery_id}_{name}",
                    "value": figures[f"unused_{name}"],
                    "unit": unit,
                    "bound": bound,
                    "reference": reference,
                }
            )
    return results
