"""Unit, scale and histogram buckets of each target in the metrics: one entry per target, in the store's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.targets import TARGETS


@dataclass(frozen=True)
class TargetMetrics:
    """Presentation of one target in the metrics.

    Attributes:
        unit: of its predictions in the store.
        factor: from the unit of `features.targets` to `unit`.
        error_buckets: upper bounds of the histogram of absolute errors, in `unit`.
    """

    target: str
    unit: str
    error_buckets: tuple[float, ...]
    factor: float = 1.0

    @property
    def floor(self) -> float:
        """Smallest |actual| that an accuracy is relative to, in `unit`."""
        return TARGETS[self.target].floor * self.factor


TARGET_METRICS: Mapping[str, TargetMetrics] = {
    metrics.target: metrics
    for metrics in (
        TargetMetrics("soh", "%", (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0), factor=100.0),
        TargetMetrics("temperature", "degC", (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)),
        TargetMetrics("rul", "equivalent full cycles", (5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0)),
        TargetMetrics("failure", "probability", (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)),
    )
}
