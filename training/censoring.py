"""Training rows from batteries that have not reached their end of life: their remaining life is imputed.

A battery that is still in use when its record ends is right-censored.  Dropping it keeps the batteries that failed
early, and so biases the model; its remaining life is at least the cycles that it was observed for.  A forest fitted to
the other batteries predicts what remains at the end of its record, and every earlier row has that many cycles more
(after Buckley and James 1979, doi:10.1093/biomet/66.3.429).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from features.labels import OBSERVED
from features.state import FloatArray
from features.targets import Target

#: The prediction at the end of a record is the mean of those after its last so many rows.
_LAST_ROWS = 3


def imputed(censored: pd.DataFrame, target: Target, predict: Callable[[pd.DataFrame], FloatArray]) -> pd.DataFrame:
    """`censored` with labels.

    Args:
        censored: rows of censored batteries in order of age, with `battery_id`, `OBSERVED` and the features.
        predict: predictions for a frame, in the target's unit, of a model that was fitted to other batteries.
    """
    newest = censored.groupby("battery_id", sort=False).tail(_LAST_ROWS)
    # From each of the last rows to the end of the record some cycles have passed.
    left = pd.Series(np.maximum(predict(newest) - newest[OBSERVED].to_numpy(dtype=float), 0.0))
    at_the_end = left.groupby(newest["battery_id"].to_numpy()).mean()
    labels = censored[OBSERVED].to_numpy(dtype=float) + at_the_end.reindex(censored["battery_id"]).to_numpy()
    return censored.assign(**{target.label: labels})
