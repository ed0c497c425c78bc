"""Plot of a demonstration: live forecast error over event time with marks for shift, drift and promotion."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.loop.demonstration import LoopResult

_BLUE, _ORANGE, _GREY, _LIGHT_GREY = "#0072b2", "#d55e00", "#777777", "#c0c0c0"  # Okabe and Ito, as in training.plots
_BIN_S = 3600.0


def plot_result(result: LoopResult, path: Path) -> None:
    """Plot hourly mean absolute errors of champion and challenger with event marks into the file `path`."""
    if result.began is None:
        return
    figure = Figure(figsize=(8.6, 3.6), layout="constrained", dpi=110)
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    zero = result.shifted or result.began
    times = result.errors["time"]
    before = times < result.promoted if result.promoted else times.notna()
    is_champion = result.errors["role"] == "champion"
    series = (
        (is_champion, _BLUE, "champion"),
        (~is_champion & before, _LIGHT_GREY, "challenger that was not promoted"),
        (~is_champion & ~before, _GREY, "replaced model, as challenger"),
    )
    for chosen, colour, label in series:
        rows = result.errors[chosen]
        if rows.empty:
            continue
        hours = (rows["time"] - zero).dt.total_seconds() / _BIN_S
        error = rows["error"].abs().groupby(hours.floordiv(1.0)).mean()
        ax.plot(error.index + 0.5, error, marker="o", markersize=3.5, color=colour, label=label)
    marks = (
        (result.shifted, "hot summer\nbegins", "right"),
        (result.flagged, "drift\nflagged", "left"),
        (result.promoted, "retrained,\npromoted", "left"),
    )
    top = ax.get_ylim()[1]
    for time, label, side in marks:
        if time is not None:
            x = (time - zero).total_seconds() / _BIN_S
            ax.axvline(x, color=_ORANGE, linewidth=1.2, linestyle="--")
            ax.annotate(
                label,
                (x, top),
                xytext=(4 if side == "left" else -4, -2),
                textcoords="offset points",
                fontsize=8,
                va="top",
                ha=side,
                color=_ORANGE,
            )
    ax.set(
        xlabel="hours since the shift, event time",
        ylabel="error of the 5-minute forecast [°C]",
        ylim=(0.0, top),
        title=f"Mean absolute error, live, {result.errors['battery_id'].nunique()} batteries",
    )
    ax.legend(framealpha=1.0, edgecolor="none", fontsize=8, loc="lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
