"""Compares ageing with BLAST-Lite itself after ten years of the same history."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physics.ageing.model import MODELS, drop_stale_code, replay
from validation import blast_lite
from validation.ageing_histories import HISTORIES, STEPS_PER_DAY, YEARS, history
from validation.report import Result

BOUND_SOH_PERCENT = 0.2


class Comparison(NamedTuple):
    """Yearly capacity and resistance of both, relative to new; no resistance of BLAST-Lite where it has no model."""

    model: str
    history: str
    capacity: NDArray[np.float64]
    resistance: NDArray[np.float64]
    reference_capacity: NDArray[np.float64]
    reference_resistance: NDArray[np.float64] | None
    reference_own_parts: float


def comparisons() -> list[Comparison]:
    """Each model on each history, updated daily, beside the committed results of BLAST-Lite."""
    drop_stale_code()
    _, references = blast_lite.read()
    histories = {name: history(use) for name, use in HISTORIES.items()}
    compared = []
    for one in references:
        lived = replay(MODELS.index(one["model"]), *histories[one["history"]], STEPS_PER_DAY, 1.0)
        yearly = lived[:: (len(lived) - 1) // YEARS]
        resistance = None if one["resistance"] is None else np.asarray(one["resistance"])
        compared.append(
            Comparison(
                one["model"],
                one["history"],
                yearly[:, 0],
                yearly[:, 1],
                np.asarray(one["capacity"]),
                resistance,
                one["capacity_own_parts"],
            )
        )
    return compared


def validate(plots: Path) -> list[Result]:
    """Difference of SoH and of resistance after ten years, for each model and history."""
    version, _ = blast_lite.read()
    reference = f"BLAST-Lite {version}, same 10-year history, daily steps"
    compared = comparisons()
    results: list[Result] = []
    for one in compared:
        name = f"ageing_{one.model}_{one.history}"
        soh = 100.0 * abs(one.capacity[-1] - one.reference_capacity[-1])
        results.append(
            {
                "name": f"{name}_soh",
                "value": float(soh),
                "unit": "% SoH",
                "bound": BOUND_SOH_PERCENT,
                "reference": f"{reference}: {100.0 * one.reference_capacity[-1]:.2f} %",
            }
        )
        if one.reference_resistance is not None:
            results.append(
                {
                    "name": f"{name}_resistance",
                    "value": float(100.0 * abs(one.resistance[-1] - one.reference_resistance[-1])),
                    "unit": "% of new",
                    "bound": None,
                    "reference": f"{reference}: {100.0 * one.reference_resistance[-1]:.1f} %",
                }
            )
    for model in MODELS:
        apart = max(abs(one.capacity[-1] - one.reference_own_parts) for one in compared if one.model == model)
        results.append(
            {
                "name": f"ageing_{model}_own_parts_soh_max",
                "value": float(100.0 * apart),
                "unit": "% SoH",
                "bound": None,
                "reference": f"simulate_battery_life of BLAST-Lite {version}, with its own parts of the history",
            }
        )
    _plot(compared, plots)
    return results


def _plot(compared: list[Comparison], plots: Path) -> None:
    """Capacity of both over the years, one panel for each model, to `ageing.png` in `plots`."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(one.model for one in compared))
    figure = Figure(figsize=(12.0, 3.2), layout="constrained")
    panels = dict(zip(names, figure.subplots(1, len(names), sharey=True), strict=True))
    years = np.arange(YEARS + 1)
    for one in compared:
        (line,) = panels[one.model].plot(years, 100.0 * one.capacity, label=one.history)
        panels[one.model].plot(years, 100.0 * one.reference_capacity, "o", color=line.get_color(), markersize=3)
        panels[one.model].set(title=one.model, xlabel="years")
    panels[names[0]].set_ylabel("capacity, % of new (dots: BLAST-Lite)")
    panels[names[0]].legend(fontsize=7)
    plots.mkdir(parents=True, exist_ok=True)
    figure.savefig(plots / "ageing.png", dpi=100)
