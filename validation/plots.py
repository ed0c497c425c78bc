"""Plots of the validation: the model over its reference, and the error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from validation.comparison import Comparison
from validation.reading_statistics import Car, charging, moving, sampling, temperature_changes

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


def real_cars_plot(real: Sequence[Car], simulated: Sequence[Car], path: Path) -> None:
    """Distributions of simulated cars (grey) and real ones (coloured): current, temperature, voltage and sampling."""
    panels = ("current, driving", "current, charging", "hottest probe", "change in 5 min", "probe spread", "gaps")
    units = ("1/h (C-rate)", "1/h (C-rate)", "°C", "K", "K", "usual intervals")
    figure = Figure(figsize=(10.8, 5.6), layout="constrained", dpi=80)
    axes = figure.subplots(2, 3).flatten()
    shown = [(car, "#bbbbbb", 0.9, "simulated") for car in simulated]
    shown += [(car, colour, 1.6, car.name) for car, colour in zip(real, _COLOURS.values(), strict=False)]
    for car, colour, width, label in shown:
        readings, c_rate = car.readings, car.readings["current"].to_numpy() / car.nominal_capacity_ah
        intervals = sampling(readings)
        values = (
            c_rate[moving(readings)],
            c_rate[charging(readings)],
            readings["temperature"].to_numpy(),
            temperature_changes(readings),
            (readings["temperature"] - readings["temperature_min"]).to_numpy(),
            intervals.before_s[1:] / intervals.interval_s,
        )
        for ax, one in zip(axes, values, strict=True):
            ordered = np.sort(one[~np.isnan(one)])
            every = max(len(ordered) // _HIDDEN_POINTS, 1)
            share = (np.arange(len(ordered)) + 0.5) / max(len(ordered), 1)
            if ax is axes[-1]:  # the long ones are of interest
                every, share = 1, 1.0 - share
            ax.plot(ordered[::every], share[::every], color=colour, linewidth=width, label=label)
    for ax, title, unit in zip(axes, panels, units, strict=True):
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(unit)
        ax.set_ylabel("share of readings below")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
    axes[-1].set_xscale("log")
    axes[-1].set_yscale("log")
    axes[-1].set_xlim(0.5, 1e4)
    axes[-1].set_ylim(1e-4, 1.0)
    axes[-1].set_ylabel("share of gaps longer")
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes[0].legend(unique.values(), unique.keys(), fontsize=7, frameon=False)
    figure.suptitle("Readings of simulated cars and of two real ones (cumulative distributions)", fontsize=10)
    _save(figure, path)
