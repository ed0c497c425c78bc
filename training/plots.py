"""Evaluation plots: predicted against actual, remaining life of single cells, reliability curve and importances."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.calibration import calibration_curve

from features.targets import TARGETS

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#777777"  # Okabe and Ito: safe for colour-blind eyes


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    # Not through pyplot: no display and no global state.
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes.flat)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "twin"}):
        figure.savefig(path, metadata={"Software": None})


def predicted_against_actual(predictions: dict[str, pd.DataFrame], path: Path) -> None:
    """One panel for each regression target: out-of-fold predictions against actual values."""
    shown = [name for name in predictions if TARGETS[name].kind == "regression"]
    if not shown:
        return
    figure, axes = _figure(4.6 * len(shown), 4.4, columns=len(shown))
    for ax, name in zip(axes, shown, strict=True):
        target, scale = TARGETS[name], TARGETS[name].shown.factor
        actual, predicted = predictions[name]["actual"] * scale, predictions[name]["predicted"] * scale
        low, high = float(min(actual.min(), predicted.min())), float(max(actual.max(), predicted.max()))
        if high - low <= 1e-9 * abs(high):  # of packs that report a health of 100 % for years
            low, high = low - 0.5, high + 0.5
        ax.hexbin(actual, predicted, gridsize=60, bins="log", mincnt=1, cmap="viridis", extent=(low, high, low, high))
        ax.plot([low, high], [low, high], color=_ORANGE, linewidth=1, label="perfect")
        unit = target.shown.unit
        ax.set(title=target.title, xlabel=f"actual [{unit}]", ylabel=f"predicted, out of fold [{unit}]")
        mae = float((actual - predicted).abs().mean())
        ax.text(0.04, 0.95, f"MAE {mae:.3g} {unit}", transform=ax.transAxes, va="top")
        ax.legend(loc="lower right", frameon=False)
    _save(figure, path)


def life_trajectories(predictions: pd.DataFrame, path: Path, count: int = 6) -> None:
    """Predicted and actual remaining life of single cells, from the smallest to the largest error."""
    if predictions.empty:
        return
    error = (
        (predictions["predicted"] - predictions["actual"]).abs().groupby(predictions["battery_id"]).mean().sort_values()
    )
    picked = error.index[np.unique(np.linspace(0, len(error) - 1, min(count, len(error))).astype(int))]
    columns = min(3, len(picked))
    rows = -(-len(picked) // columns)
    figure, axes = _figure(4.2 * columns, 3.1 * rows, columns=columns, rows=rows)
    for ax, name in zip(axes, picked, strict=False):
        cell = predictions[predictions["battery_id"] == name].sort_values("cycle_index")
        ax.plot(cell["cycle_index"], cell["actual"], color=_GREY, linewidth=1.5, label="actual")
        ax.plot(cell["cycle_index"], cell["predicted"], color=_BLUE, linewidth=1.2, label="predicted, out of fold")
        ax.set_title(f"{name} (MAE {error[name]:.0f} cycles)", fontsize=9)
        ax.set(xlabel="age [equivalent full cycles]", ylabel="remaining [cycles]")
    axes[0].legend(frameon=False, fontsize=8)
    for ax in axes[len(picked) :]:
        ax.set_visible(False)
    _save(figure, path)


def reliability_curve(predictions: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Plot the observed share of failures against the predicted probability, in ten bins of equal width.

    Returns:
        The curve: `predicted`, `observed`.
    """
    observed, predicted = calibration_curve(
        predictions["actual"], predictions["predicted"].clip(0, 1), n_bins=10, strategy="uniform"
    )
    figure, (ax, counts) = _figure(5.2, 5.6, rows=2)
    ax.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
    ax.plot(predicted, observed, marker="o", color=_BLUE, label="out of fold")
    ax.set(title="Failure within the horizon", ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False)
    counts.hist(predictions["predicted"], bins=20, range=(0, 1), color=_BLUE)
    counts.set(xlabel="predicted probability", ylabel="rows", yscale="log", xlim=(0, 1))
    _save(figure, path)
    return pd.DataFrame({"predicted": predicted, "observed": observed})


def importance(by_target: dict[str, pd.DataFrame], path: Path, count: int = 12) -> None:
    """The signals with the largest permutation importance, one panel per target."""
    if not by_target:
        return
    figure, axes = _figure(4.8 * len(by_target), 4.2, columns=len(by_target))
    for ax, (name, table) in zip(axes, by_target.items(), strict=True):
        target, scale = TARGETS[name], TARGETS[name].shown.factor
        top = table.head(count).iloc[::-1]
        ax.barh(top["signal"], top["increase"] * scale, color=_BLUE)
        measure = "Brier score" if target.kind == "classification" else f"MAE [{target.shown.unit}]"
        ax.set(title=target.title, xlabel=f"increase of {measure} when permuted")
        ax.tick_params(axis="y", labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    _save(figure, path)
