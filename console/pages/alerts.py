"""Alerts page: open, muted and resolved alerts with evidence and acknowledgement, and the active mutes."""

from __future__ import annotations

import asyncio

from nicegui import ui

from console.alerts.rules import Category
from console.connection_pool import StoreRow, StoreUnavailableError
from console.pages.alert_list import REFRESH_S, AlertList, mute_scope, run_change
from console.pages.components import action_button, div, panel, text, timestamp
from console.pages.context import PageContext, Visitor
from console.pages.frame import frame
from telemetry.errors import TwinError

_GROUPS: tuple[tuple[str, str, tuple[Category, ...]], ...] = (
    ("Safety and health", "temperature, failure risk, state of health, remaining useful life", ("safety", "health")),
    ("Low charge", "state of charge only, no health problem", ("charge",)),
)


def alerts_page(context: PageContext, visitor: Visitor) -> None:
    """Build the page."""
    with frame(context, visitor, "Alerts", "/alerts"):
        with div("row-wrap"):
            text("Alerts", "title", "h1")
            if visitor.name is None:
                text("Log in to acknowledge or mute alerts.", "muted small")
            div("grow")
            search_input = ui.input("Battery or fleet").props("outlined dense clearable debounce=300")
        with div("half"):
            lists = []
            for title, sub, categories in _GROUPS:
                with panel(title, sub):
                    lists.append(AlertList(context, visitor, categories=categories))
        _Mutes(context, visitor)

        async def search() -> None:
            for alert_list in lists:
                await alert_list.search(search_input.value or "")

        search_input.on_value_change(search)


class _Mutes:
    """Panel with the active mutes; hidden if there are none."""

    def __init__(self, context: PageContext, visitor: Visitor) -> None:
        self._context = context
        self._visitor = visitor
        self._mutes: list[StoreRow] = []
        with panel("Active mutes", "muted alerts are still tracked") as self._panel:
            self._box = div()
        self._panel.set_visibility(False)
        context.live.changed.subscribe(self._on_change)
        self._muted: object = None
        ui.timer(0.05, self.load, once=True)
        ui.timer(REFRESH_S, self.load)

    async def _on_change(self) -> None:
        if self._context.live.snapshot.muted != self._muted:
            await self.load()

    async def load(self) -> None:
        """Read the active mutes and redraw them if they changed."""
        self._muted = self._context.live.snapshot.muted
        try:
            mutes = await asyncio.to_thread(self._context.alerts.mutes)
        except StoreUnavailableError:  # the alert lists show the error
            return
        if mutes == self._mutes:
            return
        self._mutes = mutes
        self._panel.set_visibility(bool(mutes))
        self._box.clear()
        with self._box:
            for mute in mutes:
                self._draw(mute)

    def _draw(self, mute: StoreRow) -> None:
        async def end() -> None:
            try:
                await run_change(self._visitor, lambda: self._context.alerts.unmute(mute["battery_id"], mute["rule"]))
            except TwinError as error:
                ui.notify(error.sentence, type="warning")
            await self.load()

        with div("row-wrap"):
            text(mute_scope(mute["battery_id"], mute["rule"]), tag="span")
            text(f"by {mute['muted_by']} until {timestamp(mute['until'])} UTC: {mute['reason']}", "muted small", "span")
            div("grow")
            if self._visitor.name is not None:
                action_button("Unmute", end)
