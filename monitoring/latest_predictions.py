"""What the champion said last of each battery, found by the index and not by a scan."""

from __future__ import annotations

from datetime import timedelta

#: So long after the reading that it was made from a prediction stands: health and life change over many cycles, of
#: which a day has few.  A forecast of the temperature stands until it is due.
PREDICTION_VALID_FOR = timedelta(days=1)

#: FROM clause: `b`, the battery, and `p`, a row for each target that it predicted at its newest moment.
LATEST_CHAMPION_PREDICTIONS = """
    batteries b
    CROSS JOIN LATERAL (
        SELECT time FROM battery_predictions p
        WHERE p.battery_id = b.battery_id AND p.role = 'champion' ORDER BY p.time DESC LIMIT 1
    ) newest
    CROSS JOIN LATERAL (
        SELECT * FROM battery_predictions p
        WHERE p.battery_id = b.battery_id AND p.time = newest.time AND p.role = 'champion' OFFSET 0
    ) p
"""
