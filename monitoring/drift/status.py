"""When windows are drift: the newest is out of bounds, and it is not the only one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.drift.drift_params import DriftParams


@dataclass(frozen=True)
class Rule:
    """What the rule says of the newest windows of one model.

    Attributes:
        windows: how many it looked back on.
        windows_out: how many of them were out.
    """

    is_drifting: bool
    windows: int
    windows_out: int


def rule(are_out: Sequence[bool], params: DriftParams) -> Rule:
    """Drifting or not, by whether each of the newest windows is out, the newest first."""
    seen = are_out[: params.windows]
    out = sum(seen)
    return Rule(bool(seen) and seen[0] and out >= params.out_windows, len(seen), out)
