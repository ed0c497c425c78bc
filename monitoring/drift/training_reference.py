"""Training reference of a registered model: features, out-of-fold predictions and errors in the units of the store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.state import FloatArray
from features.state_update import IntArray
from features.targets import TARGETS
from training.registry.gate_scores import FEATURE_PREFIX


@dataclass(frozen=True)
class Reference:
    """A sample of the training rows of a model, each battery's in time order.

    Attributes:
        names: of the F features.
        battery: int64[n], index of the row's battery, from 0.
        time_s: float64[n], s since the epoch, NaN where unknown.
        features: float64[n, F], NaN where missing.
        predicted: float64[n], out-of-fold predictions.
        error: float64[n], predicted minus actual.
    """

    names: tuple[str, ...]
    battery: IntArray
    time_s: FloatArray
    features: FloatArray
    predicted: FloatArray
    error: FloatArray

    @property
    def batteries(self) -> int:
        """Number of batteries."""
        return int(self.battery.max()) + 1 if len(self.battery) else 0

    @classmethod
    def from_rows(cls, target: str, rows: pd.DataFrame) -> Reference:
        """The reference in the output of `training.registry.drift_reference.reference_rows`."""
        rows = rows.sort_values(["battery_id", "time", "cycle_index"], kind="stable")
        columns = [name for name in rows.columns.astype(str) if name.startswith(FEATURE_PREFIX)]
        factor = TARGETS[target].shown.factor
        time = rows["time"].astype("datetime64[us, UTC]")
        predicted = rows["predicted"].to_numpy(dtype=np.float64)
        return cls(
            names=tuple(name.removeprefix(FEATURE_PREFIX) for name in columns),
            battery=np.unique(rows["battery_id"].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64),
            time_s=np.where(time.isna(), np.nan, time.astype("int64").to_numpy() / 1e6),
            features=rows[columns].to_numpy(dtype=np.float64),
            predicted=factor * predicted,
            error=factor * (predicted - rows["actual"].to_numpy(dtype=np.float64)),
        )
