"""SQL fragment for the champion's latest predictions of each battery, found by index instead of a scan."""

from __future__ import annotations

from datetime import timedelta

from telemetry.stores.newest import newest_prediction

#: A prediction of a slow target is valid this long after its reading: health and life change over many cycles, of
#: which a day has few.  A temperature forecast is valid until it is due.
PREDICTION_VALID_FOR = timedelta(days=1)

#: FROM clause: `b`, the battery, and `p`, one row per target predicted at the battery's latest prediction time.
LATEST_CHAMPION_PREDICTIONS = f"""
    batteries b
    CROSS JOIN LATERAL {newest_prediction()} newest
    CROSS JOIN LATERAL (
        SELECT * FROM battery_predictions p
        WHERE p.battery_id = b.battery_id AND p.time = newest.time AND p.role = 'champion' OFFSET 0
    ) p
"""  # noqa: S608 - constant text
