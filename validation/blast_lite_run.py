"""Runs BLAST-Lite on the histories and prints its results as JSON, in the environment of `validation.blast_lite`."""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from typing import Any

from blast import models

from validation.ageing_histories import HISTORIES, STEPS_PER_DAY, History, history

#: Models of `physics.ageing.model.MODELS`, and their classes in BLAST-Lite.
CELLS = {
    "NMC": "NMC_Gr_50Ah_B1",
    "NCA": "Nca_Gr_Panasonic3Ah_Battery",
    "LFP": "Lfp_Gr_SonyMurata3Ah_Battery",
    "NMC_knee": "Nmc111_Gr_Kokam75Ah_Battery",
}
DIGITS = 6


def lived(cell: str, days: History) -> Any:
    """A battery of BLAST-Lite that was updated once a day."""
    battery = getattr(models, cell)()
    for first in range(0, days.time_s.size - 1, STEPS_PER_DAY):
        day = slice(first, first + STEPS_PER_DAY + 1)
        battery.update_battery_state(days.time_s[day], days.soc[day], days.temperature_c[day])
    return battery


def simulated(cell: str, days: History) -> Any:
    """A battery of BLAST-Lite on its own division of the history, which leaves out the interval between two parts."""
    series = {"Time_s": days.time_s, "SOC": days.soc, "Temperature_C": days.temperature_c}
    return getattr(models, cell)().simulate_battery_life(series, is_conserve_energy_throughput=False)


def main() -> None:
    """Run each model on each history and print capacity and resistance, relative to new, at the end of each year."""
    warnings.simplefilter("ignore")
    results = []
    for name, use in HISTORIES.items():
        days = history(use)
        for model, cell in CELLS.items():
            outputs = lived(cell, days).outputs
            yearly = {
                key: outputs[output][::365].round(DIGITS).tolist() if output in outputs else None
                for key, output in (("capacity", "q"), ("resistance", "r"))
            }
            end = round(float(simulated(cell, days).outputs["q"][-1]), DIGITS)
            results.append({"model": model, "history": name, **yearly, "capacity_own_parts": end})
    cells = {model: f"blast.models.{cell}" for model, cell in CELLS.items()}
    json.dump({"blast_lite": version("blast-lite"), "cells": cells, "results": results}, sys.stdout)


if __name__ == "__main__":
    main()
