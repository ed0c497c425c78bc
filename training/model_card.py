"""Model card of one forest as markdown: intended use, training data, evaluation, limits and reproduction.

After Mitchell et al. 2019, "Model Cards for Model Reporting", doi:10.1145/3287560.3287596.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.targets import TARGETS

_LIMITS: tuple[str, ...] = (
    "A forest cannot extrapolate: outside the range of its training data it repeats the nearest values.",
    "It was trained on the chemistry, size and use of the batteries of its source; it is untested on others.",
    "It must not be the only safeguard against a hot or failing battery.",
)
_SIMULATED = "Its batteries are simulated: the errors above are those on the simulator, not on a real fleet."

_MEASURES = ("mae", "rmse", "r2", "auc", "average_precision", "brier", "brier_skill")


@dataclass(frozen=True)
class CardContext:
    """Facts of the card besides the fit and its evaluation."""

    source: str
    data_sha256: str | None = None
    git_commit: str | None = None
    content_sha256: str | None = None


def model_card(target: str, fit: Mapping[str, Any], evaluation: Mapping[str, Any], context: CardContext) -> str:
    """The card of one model as markdown.

    Args:
        fit: content of `models/<target>/fit.json`.
        evaluation: the target's entries of `reports/metrics.json`: "targets" (out of fold) and "gate".
    """
    out_of_fold, gate = evaluation.get("targets", {}), evaluation.get("gate", {})
    unit = str(out_of_fold.get("unit") or gate.get("unit") or "")
    sections = [
        f"# Model card: {target}",
        "## Intended use\n" + TARGETS[target].shown.purpose.format(**fit["definitions"]),
        "## Training data\n" + _training(fit, context),
        f"## Evaluation\n{_split(fit)}\n\n"
        + "\n\n".join(
            part for part in (_table("Out of fold", out_of_fold), _table("On the gate's batteries", gate)) if part
        )
        + (f"\n\nErrors are in {unit}." if unit else ""),
        "## Errors by quarter of life\n" + _quarters(out_of_fold.get("by_life_quarter", ())),
        *_intervals(out_of_fold.get("interval"), unit),
        "## Limits\n" + "\n".join(f"- {limit}" for limit in _limits(fit, context)),
        "## Reproduction\n" + _reproduction(fit, context),
    ]
    return "\n\n".join(sections) + "\n"


def _training(fit: Mapping[str, Any], context: CardContext) -> str:
    return (
        f"Source `{context.source}`: {fit['n_rows']:,} rows of {fit['n_batteries']} batteries, "
        f"{len(fit['feature_names'])} features (state version {fit['state_version']}). "
        f"{_held_out(fit)}"
    )


def _held_out(fit: Mapping[str, Any]) -> str:
    batteries = _shortened(fit["gate_batteries"])
    if set(fit["gate_batteries"]) & set(fit["train_batteries"]):
        return f"Held out for the gate: the last rows of {batteries}, whose earlier rows were used for training."
    return f"Held out for the gate, used neither in tuning nor in training: {batteries}."


def _shortened(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "none"


def _split(fit: Mapping[str, Any]) -> str:
    return f"Split: {fit['split']}." if fit.get("split") else ""


def _table(title: str, entry: Mapping[str, Any]) -> str:
    if not entry:
        return ""
    shown = [name for name in _MEASURES if name in entry]
    rows = [("**model**", entry), *sorted(entry.get("baselines", {}).items())]
    lines = [
        f"{title}: {entry['n_rows']:,} rows, {entry['n_batteries']} batteries, "
        f"skill against the best baseline {_number(entry.get('skill'))}.",
        "",
        "| | " + " | ".join(shown) + " |",
        "|---|" + "---:|" * len(shown),
        *(f"| {name} | " + " | ".join(_number(values.get(key)) for key in shown) + " |" for name, values in rows),
    ]
    return "\n".join(lines)


def _quarters(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        return "Unknown."
    shown = [key for key in entries[0] if key not in ("quarter", "n_rows")]
    header = "| quarter of life | rows | " + " | ".join(shown) + " |\n|---:|---:|" + "---:|" * len(shown)
    rows = (
        f"| {entry['quarter']} | {entry['n_rows']:,} | " + " | ".join(_number(entry.get(key)) for key in shown) + " |"
        for entry in entries
    )
    return "\n".join((header, *rows))


def _intervals(interval: Mapping[str, Any] | None, unit: str) -> tuple[str, ...]:
    """The section about prediction intervals; none for a classifier or a model of an earlier version."""
    if not interval:
        return ()
    heading = "## Prediction intervals\n"
    if "nominal" not in interval:
        return (f"{heading}None: {interval['reason']}.",)
    return (
        f"{heading}Nominal coverage {interval['nominal']:.0%}. Out of fold {interval['coverage']:.1%} of the rows lie "
        f"inside, {interval['coverage_by_battery']:.1%} of a battery's rows in the mean over batteries; mean width "
        f"{_number(interval['width_mean'])} {unit}.\n\n" + _quarters(interval["by_life_quarter"]),
    )


def _limits(fit: Mapping[str, Any], context: CardContext) -> tuple[str, ...]:
    limits = _LIMITS
    if fit.get("label_max") is not None and TARGETS[fit["target"]].offset is None:  # others predict a change
        limits = (
            *limits,
            f"The largest value in training was {_number(fit['label_max'])}; it never predicts more.",
        )
    return (_SIMULATED, *limits) if context.source == "fleet" else limits


def _reproduction(fit: Mapping[str, Any], context: CardContext) -> str:
    facts = {
        "git commit": context.git_commit,
        "training table, SHA-256": context.data_sha256,
        "model.onnx and fit.json, SHA-256": context.content_sha256,
        "seed": fit.get("seed"),
        "forest": ", ".join(f"{key} {value}" for key, value in fit["params"].items()),
        "largest difference between ONNX and scikit-learn": _number(fit.get("onnx_max_difference")),
    }
    lines = [f"- {name}: {'unknown' if value is None else f'`{value}`'}" for name, value in facts.items()]
    return "\n".join(
        [*lines, "", "`dvc repro` at that commit gives the same file; the environment is `requirements.lock`."]
    )


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"
