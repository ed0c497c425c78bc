"""Typed section `drift` of params.yaml: how drift windows are formed and when they count as drift."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from telemetry.errors import TwinError
from training.params import parse_section


@dataclass(frozen=True)
class DriftParams:
    """How windows are formed and when they count as drift.

    Attributes:
        window_s: length of a window, s of event time.
        min_rows, min_batteries: minimum that a window must hold to be measured.
        batteries: features are computed for at most this many batteries.
        rows_per_battery: a window is thinned to this many rows of each battery.
        false_alarms: share of the reference's own windows that are out of bounds.
        out_windows, windows: a model drifts when the newest window and `out_windows` of the last `windows` are out.
    """

    window_s: float = 86_400.0
    min_rows: int = 20
    min_batteries: int = 3
    batteries: int = 50
    rows_per_battery: int = 12
    false_alarms: float = 0.005
    out_windows: int = 3
    windows: int = 5

    def __post_init__(self) -> None:
        for name in ("window_s", "min_rows", "min_batteries", "batteries", "rows_per_battery", "out_windows"):
            if not getattr(self, name) > 0:
                raise _invalid(name, getattr(self, name), "it must be greater than 0")
        if not 0.0 < self.false_alarms < 1.0:
            raise _invalid("false_alarms", self.false_alarms, "it must lie between 0 and 1")
        if self.windows < self.out_windows:
            raise _invalid("windows", self.windows, f"it must be at least drift.out_windows, {self.out_windows}")


def project_drift(params_file: Path) -> DriftParams:
    """Section `drift` of `params_file`; the defaults without the file or the section."""
    if not params_file.is_file():
        return DriftParams()
    params = yaml.safe_load(params_file.read_text(encoding="utf-8"))
    return parse_section(DriftParams, params.get("drift", {}), "drift")


def _invalid(name: str, value: object, rule: str) -> TwinError:
    return TwinError(f"params.yaml: drift.{name} is {value!r}: {rule}.", field=f"drift.{name}", value=value)
