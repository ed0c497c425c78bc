"""Words for events of batteries, for the page and the REST API of one battery."""

from __future__ import annotations

from console.connection_pool import StoreRow

#: Newest events that the page and the API list.
LISTED_EVENTS = 20


def missing_event(reset: StoreRow | None) -> str | None:
    """What to enter if the count of cycles has fallen without an event, see `Queries.unexplained_reset`."""
    if reset is None:
        return None
    return (
        f"charge_cycles is {reset['charge_cycles']:.0f} and the age {reset['cycle_index']:.0f}: enter `replaced` or "
        "`bms_reset` in battery_events"
    )
