"""Events of one battery on its page, the one that is missing, and the dialog that enters one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from console.events import EVENT_KINDS
from console.pages.alert_list import run_change
from console.pages.components import button, div, facts
from console.pages.context import PageContext, Visitor
from console.pages.forms import choice_field, form_dialog, text_field
from telemetry.errors import TwinError, text_of

_TIME_FORMAT = "%Y-%m-%d %H:%M"
_KINDS: dict[str, str] = {kind: kind.replace("_", " ").replace("bms", "BMS") for kind in EVENT_KINDS}
_EFFECT = "Replaced: state and labels begin anew. BMS reset: the age goes on. Capacity test and failed: a label."


class EventPanel:
    """Events of a battery, newest first, with a button for visitors who are logged in."""

    def __init__(self, context: PageContext, visitor: Visitor, battery_id: str) -> None:
        self._context, self._visitor, self._battery_id = context, visitor, battery_id
        self._list = div()
        if visitor.name is not None:
            with div("acts"):
                button("Enter event", self._open)
        self._dialogs = div()

    def read(self) -> list[tuple[str, str]]:
        """Names and values to draw; reads the store."""
        events = self._context.events
        known = [
            (
                _KINDS[event["event"]],
                f"{event['time']:%Y-%m-%d}" + (f", {event['value']:g} Ah" if event["value"] else ""),
            )
            for event in events.listed(self._battery_id)
        ]
        missing = events.missing(self._battery_id)
        return known if missing is None else [("missing event", missing), *known]

    def draw(self, shown: list[tuple[str, str]]) -> None:
        """Redraw the list from the result of `read`."""
        self._list.clear()
        with self._list:
            facts(shown)

    def _open(self) -> None:
        async def submit() -> str | None:
            try:
                at, measured = _time(time.value), _value(value.value)
                await run_change(
                    self._visitor,
                    lambda: self._context.events.enter(
                        self._battery_id, at, kind.value, measured, self._visitor.name or ""
                    ),
                )
                self.draw(await asyncio.to_thread(self.read))
            except TwinError as error:
                return error.sentence
            return None

        with form_dialog(self._dialogs, f"Event of {self._battery_id}", "Enter", submit):
            kind = choice_field("Event", _KINDS, EVENT_KINDS[0], _EFFECT)
            time = text_field("Time (UTC)", f"recorded with your name, {self._visitor.name}", focus=True)
            time.set_value(datetime.now(UTC).strftime(_TIME_FORMAT))
            value = text_field("Measured capacity, Ah", "of a capacity test only")


def _time(written: str | None) -> datetime:
    try:
        return datetime.strptime((written or "").strip(), _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise TwinError(
            f"Time is {text_of(written)}: write it in UTC such as 2026-03-01 12:00.", field="time", value=written
        ) from None


def _value(written: str | None) -> float | None:
    if not (written or "").strip():
        return None
    try:
        return float(written or "")
    except ValueError:
        raise TwinError(
            f"Measured capacity is {text_of(written)}: write a number of Ah.", field="value", value=written
        ) from None
