"""Alerts: what is open, why, what speaks for it, who knows; what is muted; and what is over."""

from __future__ import annotations

import asyncio

from nicegui import ui

from console.alerts.rules import Category
from console.connection_pool import StoreRow, StoreUnavailableError
from console.pages.alert_list import REFRESH_S, AlertList, do, mute_scope
from console.pages.components import acting, clock, div, panel, text
from console.pages.context import Context, Visitor
from console.pages.frame import frame

_GROUPS: tuple[tuple[str, str, tuple[Category, ...]], ...] = (
    ("Safety and health", "heat, failure risk, worn batteries", ("safety", "health")),
    ("Low charge", "says nothing about a battery's health", ("charge",)),
)


def alerts_page(context: Context, visitor: Visitor) -> None:
    """Draw it."""
    with frame(context, visitor, "Alerts", "/alerts"):
        with div("row-wrap"):
            text("Alerts", "title", "h1")
            if visitor.name is None:
                text("Log in to acknowledge or mute.", "muted small")
            div("grow")
            wanted = ui.input("Battery or fleet").props("outlined dense clearable debounce=300")
        with div("half"):
            lists = []
            for title, sub, categories in _GROUPS:
                with panel(title, sub):
                    lists.append(AlertList(context, visitor, categories=categories))
        _Mutes(context, visitor)

        async def search() -> None:
            for one in lists:
                await one.search(wanted.value or "")

        wanted.on_value_change(search)


class _Mutes:
    """Every mute in effect; nothing where there is none."""

    def __init__(self, context: Context, visitor: Visitor) -> None:
        self._context = context
        self._visitor = visitor
        self._seen: list[StoreRow] = []
        with panel("Mutes", "an alert lives on meanwhile, out of the way") as self._panel:
            self._box = div()
        self._panel.set_visibility(False)
        context.live.changed.subscribe(self._notice)
        self._muted: object = None
        ui.timer(0.05, self.load, once=True)
        ui.timer(REFRESH_S, self.load)

    async def _notice(self) -> None:
        if self._context.live.snapshot.muted != self._muted:
            await self.load()

    async def load(self) -> None:
        """Ask the store and draw what is new."""
        self._muted = self._context.live.snapshot.muted
        try:
            mutes = await asyncio.to_thread(self._context.alerts.mutes)
        except StoreUnavailableError:  # the lists say so
            return
        if mutes == self._seen:
            return
        self._seen = mutes
        self._panel.set_visibility(bool(mutes))
        self._box.clear()
        with self._box:
            for mute in mutes:
                self._draw(mute)

    def _draw(self, mute: StoreRow) -> None:
        async def end() -> None:
            if await do(self._visitor, lambda: self._context.alerts.unmute(mute["battery_id"], mute["rule"])):
                await self.load()

        with div("row-wrap"):
            text(mute_scope(mute["battery_id"], mute["rule"]), tag="span")
            text(f"by {mute['muted_by']} until {clock(mute['until'])} UTC: {mute['reason']}", "muted small", "span")
            div("grow")
            if self._visitor.name is not None:
                acting("End", end)
