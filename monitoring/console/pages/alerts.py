"""Alerts: what is open, why, what speaks for it, who knows; and what is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from nicegui import ui

from data.errors import TwinError
from monitoring.console.alerts.rules import RULES
from monitoring.console.database import StoreAwayError, StoreRow
from monitoring.console.live import Snapshot
from monitoring.console.pages.context import Context, Visitor
from monitoring.console.pages.frame import frame
from monitoring.console.pages.parts import age, button, clock, div, empty, number, panel, text

_MUTE_HOURS = {1: "1 hour", 8: "8 hours", 24: "1 day", 168: "1 week"}
_EVIDENCE = {
    "temperature": ("hottest probe", 1, "°C"), "ambient_temperature": ("ambient", 1, "°C"), "soc": ("charge", 1, "%"),
    "soh": ("health", 1, "%"), "soh_predicted": ("health predicted", 1, "%"), "current": ("current", 1, "A"),
    "voltage": ("voltage", 1, "V"), "failure_probability": ("failure", 2, ""), "rul_prediction": ("life left", 0, ""),
    "charge_cycles": ("cycles", 0, ""),
}  # fmt: skip
_GROUPS = (
    ("Safety and health", "heat, failure risk, worn batteries", ("safety", "health")),
    ("Low charge", "says nothing about a battery's health", ("charge",)),
)


def alerts_page(context: Context, visitor: Visitor) -> None:
    """Draw it."""
    with frame(context, visitor, "Alerts", "/alerts"):
        text("Alerts", "title", "h1")
        if visitor.name is None:
            text("Log in to acknowledge or mute.", "muted small")
        with div("half"):
            for title, sub, categories in _GROUPS:
                with panel(title, sub):
                    AlertList(context, visitor, categories=categories)


class AlertList:
    """Alerts of some categories or of one battery, drawn where it is made and anew when they change."""

    def __init__(
        self,
        context: Context,
        visitor: Visitor,
        *,
        battery_id: str | None = None,
        categories: tuple[str, ...] | None = None,
        cleared: int = 50,
    ) -> None:
        self._context = context
        self._visitor = visitor
        self._battery_id = battery_id
        self._categories = categories
        self._cleared = cleared
        self._seen: object = None
        self._dialogs = div()  # apart, because the list is drawn anew while one is open
        self._box = div()
        with self._box:
            text("Looking …", "muted small")
        context.live.changed.subscribe(self._notice)
        ui.timer(0.05, self.load, once=True)

    async def _notice(self, snapshot: Snapshot, _: frozenset[str]) -> None:
        if snapshot.open_alerts != self._seen and snapshot.problem is None:
            await self.load()

    async def load(self) -> None:
        """Ask the store and draw."""
        self._seen = self._context.live.snapshot.open_alerts
        try:
            alerts = await asyncio.to_thread(self._context.alerts.alerts, self._battery_id, cleared=self._cleared)
        except StoreAwayError as error:
            self._box.clear()
            with self._box:
                empty("Alerts are not known now", error.sentence)
            return
        wanted = [alert for alert in alerts if self._is_ours(alert)]
        muted = [alert for alert in wanted if alert["mute_until"] is not None and alert["cleared_at"] is None]
        is_open = [alert for alert in wanted if alert["cleared_at"] is None and alert["mute_until"] is None]
        over = [alert for alert in wanted if alert["cleared_at"] is not None]
        self._box.clear()
        with self._box:
            if not is_open:
                empty("All quiet", "No alert is open here." if not muted else "Only muted ones are open here.")
            for alert in is_open:
                self._draw(alert)
            self._fold("Muted", muted)
            self._fold("Over", over)

    def _is_ours(self, alert: StoreRow) -> bool:
        rule = RULES.get(alert["rule"])
        return self._categories is None or (rule is not None and rule.category in self._categories)

    def _fold(self, title: str, alerts: list[StoreRow]) -> None:
        if alerts:
            with ui.element("details"):
                with ui.element("summary").classes("muted small").style("cursor:pointer;padding:8px 0"):
                    text(f"{title} ({len(alerts)})", tag="span")
                for alert in alerts:
                    self._draw(alert)

    def _draw(self, alert: StoreRow) -> None:
        is_over = alert["cleared_at"] is not None
        with div("alert over" if is_over else "alert"):
            with div():
                text(alert["severity"], f"chip s-{alert['severity']}", "span")
                text(_when(alert), "muted small")
            with div():
                with div("row-wrap"):
                    if self._battery_id is None:
                        ui.link(alert["battery_id"], f"/battery/{alert['battery_id']}")
                    text(alert["reason"], tag="span")
                self._evidence(alert)
                if alert["acknowledged_by"]:
                    note = f": {alert['note']}" if alert["note"] else ""
                    text(f"{alert['acknowledged_by']} knows since {clock(alert['acknowledged_at'])} UTC{note}", "small")
                if alert["mute_until"] is not None and not is_over:
                    text(f"muted until {clock(alert['mute_until'])} UTC: {alert['mute_reason']}", "muted small")
            with div("acts"):
                if self._visitor.name is not None and not is_over:
                    self._actions(alert)

    def _evidence(self, alert: StoreRow) -> None:
        with div("evidence"):
            for column, (name, decimals, unit) in _EVIDENCE.items():
                value = alert["evidence"].get(column)
                if value is not None:
                    text(f"{name} {number(value, decimals, unit)}", tag="span")

    def _actions(self, alert: StoreRow) -> None:
        if alert["acknowledged_by"] is None:
            button("Acknowledge", lambda: self._acknowledge(alert))
        if alert["mute_until"] is None:
            button("Mute", lambda: self._mute(alert))
        else:
            button("Unmute", lambda: self._do(lambda: self._context.alerts.unmute(alert["battery_id"], alert["rule"])))

    def _acknowledge(self, alert: StoreRow) -> None:
        with self._dialogs, ui.dialog() as dialog, ui.card():
            text(f"{alert['battery_id']}: {alert['reason']}", "h2")
            note = (
                ui.input("Note: what is being done").props("autofocus outlined dense maxlength=500").classes("w-full")
            )
            with div("acts row-wrap"):
                button(
                    "Acknowledge",
                    lambda: self._do(
                        lambda: self._context.alerts.acknowledge(
                            alert["alert_id"], by=self._visitor.name or "", note=note.value or ""
                        ),
                        dialog,
                    ),
                )
                button("Cancel", dialog.close)
        dialog.open()

    def _mute(self, alert: StoreRow) -> None:
        with self._dialogs, ui.dialog() as dialog, ui.card():
            text(f"Mute {RULES[alert['rule']].title.lower()} of {alert['battery_id']}", "h2")
            hours = ui.select(_MUTE_HOURS, value=8, label="For").props("outlined dense").classes("w-full")
            reason = ui.input("Reason").props("outlined dense maxlength=500").classes("w-full")
            with div("acts row-wrap"):
                button(
                    "Mute",
                    lambda: self._do(
                        lambda: self._context.alerts.mute(
                            alert["battery_id"],
                            alert["rule"],
                            hours=float(hours.value or 1),
                            by=self._visitor.name or "",
                            reason=reason.value or "",
                        ),
                        dialog,
                    ),
                )
                button("Cancel", dialog.close)
        dialog.open()

    async def _do(self, change: Callable[[], None], dialog: Any = None) -> None:
        if self._visitor.name is None:
            ui.notify("Your session is over: log in again.", type="warning")
            return
        try:
            await asyncio.to_thread(change)
        except TwinError as error:
            ui.notify(error.sentence, type="warning")
            return
        if dialog is not None:
            dialog.close()
        await self.load()


def _when(alert: StoreRow) -> str:
    opened: datetime = alert["opened_at"]
    if alert["cleared_at"] is None:
        return f"for {age(opened)}"
    return f"{clock(opened)}, lasted {age(opened, alert['cleared_at'])}"
