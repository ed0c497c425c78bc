"""Renders a validation result as a self-contained HTML page and as a summary for JSON.

Deterministic: without time of day and absolute paths, so the same data gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from telemetry.validation import ValidationResult

_TEMPLATE = Path(__file__).with_suffix(".html")
#: Quarantined rows shown on the page; all of them are in data/quarantine.
_EXAMPLES = 20


def summary(result: ValidationResult, source: str) -> dict[str, Any]:
    """Counts by table, rule and reason, for reports/validation.json and the page."""
    kept = {"readings": result.readings, "cycles": result.cycles}
    quarantined = result.quarantine["table"].value_counts()
    tables = [
        {
            "table": name,
            "read": len(frame) + int(quarantined.get(name, 0)),
            "kept": len(frame),
            "quarantined": int(quarantined.get(name, 0)),
        }
        for name, frame in kept.items()
    ]
    reasons = result.quarantine.groupby(["table", "reason"]).size().rename("rows").reset_index()
    reasons = reasons.sort_values(["rows", "table", "reason"], ascending=[False, True, True])
    return {
        "source": source,
        "refused": result.refused,
        "rows_read": result.rows_read,
        "rows_kept": sum(len(frame) for frame in kept.values()),
        "rows_quarantined": len(result.quarantine),
        "batteries": len(result.batteries),
        "tables": tables,
        "rules": [vars(rule) for rule in result.rules],
        "quarantine": reasons.to_dict("records"),
        "notes": result.notes,
    }


def render(result: ValidationResult, source: str) -> str:
    """The HTML page; every value that came from a file is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = lambda number: f"{number:,}"
    examples: pd.DataFrame = result.quarantine.head(_EXAMPLES)
    return (
        environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
            summary=summary(result, source), examples=examples.to_dict("records")
        )
        + "\n"
    )
