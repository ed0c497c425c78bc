"""Plots of the validation: the model over its reference, and the error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from validation.comparison import Comparison

_COLOURS = {0.0: "#0072b2", 25.0: "#009e73", 40.0: "#d55e00"}  # Okabe and Ito: safe for colour-blind eyes
_HIDDEN_POINTS = 1500


def _grid(rows: Sequence[str], columns: Sequence[str]) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    # Not through pyplot: no display and no global state.
    figure = Figure(figsize=(3.6 * len(columns), 2.6 * len(rows)), layout="constrained", dpi=80)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure, {(row, column): axes[i][j] for i, row in enumerate(rows) for j, column in enumerate(columns)}


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "twin"}):
        figure.savefig(path, metadata={"Software": None})


def voltage_plot(compared: Sequence[Comparison], path: Path) -> None:
    """Voltage of reference (grey) and model over time, one panel for each chemistry and profile."""
    rows, columns = list(dict.fromkeys(c.chemistry for c in compared)), list(dict.fromkeys(c.profile for c in compared))
    figure, axes = _grid(rows, columns)
    for one in compared:
        ax, every = axes[one.chemistry, one.profile], max(len(one.voltage_v) // _HIDDEN_POINTS, 1)
        hours = np.arange(len(one.voltage_v)) / 3600.0
        ax.plot(hours[::every], one.reference.voltage_v[::every], color="#999999", linewidth=1.6)
        label = f"{one.ambient_c:.0f} °C: {one.rmse_mv:.1f} mV"
        ax.plot(hours[::every], one.voltage_v[::every], color=_COLOURS[one.ambient_c], linewidth=0.7, label=label)
        ax.set_title(f"{one.chemistry}, {one.profile}", fontsize=9)
        ax.legend(fontsize=7, frameon=False)
        ax.set_ylabel("V")
        ax.set_xlabel("h")
    figure.suptitle("Terminal voltage: SPMe (grey) and cell model, root mean square error", fontsize=10)
    _save(figure, path)


def temperature_plot(compared: Sequence[Comparison], path: Path) -> None:
    """Temperature of reference (grey) and model over time, one panel for each profile, where the reference warms."""
    shown = [one for one in compared if np.ptp(one.reference.temperature_c) > 0.0]
    columns = list(dict.fromkeys(one.profile for one in shown))
    figure, axes = _grid(["temperature"], columns)
    for one in shown:
        ax, hours = axes["temperature", one.profile], np.arange(len(one.temperature_c)) / 3600.0
        ax.plot(hours[::10], one.reference.temperature_c[::10], color="#999999", linewidth=2.0)
        label = f"{one.ambient_c:.0f} °C: {one.rmse_degc:.2f} °C"
        ax.plot(hours[::10], one.temperature_c[::10], color=_COLOURS[one.ambient_c], linewidth=0.9, label=label)
        ax.set_title(f"{one.chemistry}, {one.profile}", fontsize=9)
        ax.legend(fontsize=7, frameon=False)
        ax.set_ylabel("°C")
        ax.set_xlabel("h")
    _save(figure, path)
