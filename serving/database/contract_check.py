"""Which rows of a table of readings keep to the contract, by the bounds that the request's schema has too."""

from __future__ import annotations

import numpy as np
import pandas as pd

from telemetry.contract import READING_FIELDS


def faults(readings: pd.DataFrame) -> pd.Series:
    """The first field at fault of each of `readings` (contract columns, missing values NaN), "" where there is none."""
    fault = pd.Series("", index=readings.index, dtype="str")
    for field in reversed(READING_FIELDS):
        values = readings[field.name]
        bad = values.isna() & field.required
        if field.kind == "float":
            numbers = values.to_numpy(dtype=np.float64)
            bad |= np.isinf(numbers)
            if field.minimum is not None:
                bad |= numbers < field.minimum
            if field.maximum is not None:
                bad |= numbers > field.maximum
        fault[bad] = field.name
    return fault
