"""List of open, muted and resolved alerts with buttons to acknowledge and mute; redraws only changed alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from nicegui import ui

from console.alerts.alert_store import AlertChangedError, AlertFilter
from console.alerts.rules import RULES, Category, Severity
from console.connection_pool import StoreRow, StoreUnavailableError
from console.live_updates import FleetSnapshot
from console.pages.components import action_button, age, button, div, empty, number, set_text, text, timestamp
from console.pages.context import PageContext, Visitor
from console.pages.forms import choice_field, form_dialog, text_field
from features.targets import TARGETS
from telemetry.errors import TwinError

_T = TypeVar("_T")
#: Interval at which changes by other users, and mutes that expire, are read.
REFRESH_S = 10.0
#: Presets of the duration of a mute.
MUTE_HOURS = {1: "1 hour", 8: "8 hours", 24: "1 day", 168: "1 week", 720: "30 days"}
#: Alerts that the form to acknowledge several names.
_ALERTS_NAMED = 8
_EVIDENCE = {
    "temperature": ("hottest probe", 1, "°C"), "ambient_temperature": ("ambient", 1, "°C"), "soc": ("SoC", 1, "%"),
    "soh": ("SoH", 1, "%"), "current": ("current", 1, "A"), "voltage": ("voltage", 1, "V"),
    "charge_cycles": ("equivalent full cycles", 0, ""),
    **{
        target.predicted_column: (f"predicted {target.shown.short}", target.shown.decimals, target.shown.symbol)
        for target in TARGETS.values()
    },
}  # fmt: skip
_ALL_BATTERIES = "*"  # not a valid battery id
_STATES = {"open": "Open", "muted": "Muted", "resolved": "Resolved"}


@dataclass
class _Drawn:
    """Elements of one alert; `message` and `since` are updated with the battery's data."""

    alert: StoreRow
    element: ui.element
    message: ui.html
    since: ui.html


class AlertList:
    """Alerts of some categories or of one battery; unchanged entries are not redrawn and keep focus and open details.

    Args:
        page_size: alerts per state that are shown at first, and that "Show more" adds.
        unfolds_resolved: whether the resolved alerts are unfolded while none is open.
    """

    def __init__(
        self,
        context: PageContext,
        visitor: Visitor,
        *,
        battery_id: str | None = None,
        categories: tuple[Category, ...] | None = None,
        page_size: int = 50,
        unfolds_resolved: bool = False,
    ) -> None:
        self._context = context
        self._visitor = visitor
        self._battery_id = battery_id
        self._rules = [rule.name for rule in RULES.values() if categories is None or rule.category in categories]
        self._unfolds_resolved = unfolds_resolved
        self._text = ""
        self._page_size = self._limit = page_size
        self._loaded_keys: object = None
        self._drawn: dict[int, _Drawn] = {}
        self._dialogs = div()
        self._message = div()
        with self._message:
            text("Loading …", "muted small")
        self._acts = div("row-wrap")
        with self._acts:
            button("Acknowledge all …", lambda: self._acknowledge(self._unacknowledged()))
        self._acts.set_visibility(False)
        self._titles: dict[str, ui.html] = {}
        self._groups, self._lists, self._more = {}, {}, {}
        for state in _STATES:
            with self._group(state) as self._groups[state]:
                self._lists[state] = div()
                self._more[state] = action_button("Show more", self._show_more)
            self._groups[state].set_visibility(False)
        context.live.changed.subscribe(self._on_change)
        ui.timer(0.05, self.load, once=True)
        ui.timer(REFRESH_S, self.load)

    async def search(self, search_text: str) -> None:
        """Show only alerts of batteries whose id or fleet contains `search_text`."""
        self._text, self._limit = search_text, self._page_size
        await self.load()

    async def load(self) -> None:
        """Read the alerts and redraw the changed ones."""
        self._loaded_keys = self._open_keys(self._context.live.snapshot)
        selection = AlertFilter(self._battery_id, self._rules, self._text)
        try:
            alerts = await asyncio.to_thread(self._context.alerts.alerts, selection, limit=self._limit)
        except StoreUnavailableError as error:
            self._show_message("Alerts unavailable", error.sentence)
            return
        by_state = {state: [alert for alert in alerts if alert["state"] == state] for state in _STATES}
        self._show(by_state)
        if self._unfolds_resolved and not by_state["open"]:
            self._groups["resolved"].props("open")
        if by_state["open"]:
            self._message.clear()
            if (total := by_state["open"][0]["state_total"]) > len(by_state["open"]):
                with self._message:
                    text(f"{total:,} open alerts; the {len(by_state['open']):,} most severe are shown.", "muted small")
        elif by_state["muted"]:
            self._show_message("No open alerts", "All open alerts are muted.")
        else:
            hint = "" if by_state["resolved"] else "None was resolved recently either."
            self._show_message("No open alerts", "No battery matches the search." if self._text.strip() else hint)

    def _open_keys(self, snapshot: FleetSnapshot) -> object:
        rules = set(self._rules)
        return {
            key: (severity, key in snapshot.muted)
            for key, severity in snapshot.open_alerts.items()
            if key[1] in rules and self._battery_id in (None, key[0])
        }

    async def _on_change(self, snapshot: FleetSnapshot, changed: frozenset[str]) -> None:
        if snapshot.problem is not None:
            return
        for drawn in self._drawn.values():
            if drawn.alert["battery_id"] in changed:
                self._update_text(drawn)
        if self._open_keys(snapshot) != self._loaded_keys:
            await self.load()

    def _show(self, by_state: Mapping[str, list[StoreRow]]) -> None:
        shown = {alert["alert_id"]: alert for alerts in by_state.values() for alert in alerts}
        for alert_id, drawn in list(self._drawn.items()):
            if _content(drawn.alert) != _content(shown.get(alert_id)):
                drawn.element.delete()
                del self._drawn[alert_id]
        for state, alerts in by_state.items():
            container = self._lists[state]
            for index, alert in enumerate(alerts):
                if alert["alert_id"] not in self._drawn:
                    with container:
                        self._drawn[alert["alert_id"]] = self._draw(alert)
                element = self._drawn[alert["alert_id"]].element
                if container.default_slot.children[index] is not element:
                    element.move(container, index)
            total = len(alerts) if state == "resolved" or not alerts else alerts[0]["state_total"]
            is_cut = len(alerts) == self._limit if state == "resolved" else total > len(alerts)
            self._more[state].set_visibility(is_cut)
            self._groups[state].set_visibility(bool(alerts))
            if state in self._titles:
                newest = "the newest " if state == "resolved" and is_cut else ""
                set_text(self._titles[state], f"{_STATES[state]} ({newest}{total})")
        self._acts.set_visibility(self._visitor.name is not None and len(self._unacknowledged()) > 1)

    def _show_message(self, title: str, detail: str) -> None:
        self._message.clear()
        with self._message:
            empty(title, detail)

    def _group(self, state: str) -> ui.element:
        if state == "open":
            return div()
        with ui.element("details") as details, ui.element("summary").classes("muted small toggle"):
            self._titles[state] = text(_STATES[state], tag="span")
        return details

    async def _show_more(self) -> None:
        self._limit += self._page_size
        await self.load()

    def _unacknowledged(self) -> list[StoreRow]:
        alerts = [drawn.alert for drawn in self._drawn.values()]
        return [alert for alert in alerts if alert["state"] == "open" and alert["acknowledged_by"] is None]

    def _draw(self, alert: StoreRow) -> _Drawn:
        is_resolved = alert["state"] == "resolved"
        with div("alert resolved" if is_resolved else "alert") as element:
            with div():
                text(alert["severity"], f"chip s-{alert['severity']}", "span")
                since = text("", "muted small")
            with div():
                with div("row-wrap"):
                    if self._battery_id is None:
                        ui.link(alert["battery_id"], f"/battery/{alert['battery_id']}")
                    message = text("", tag="span")
                _evidence(alert)
                if alert["acknowledged_by"]:
                    when, note = timestamp(alert["acknowledged_at"]), f": {alert['note']}" if alert["note"] else ""
                    text(f"Acknowledged by {alert['acknowledged_by']} at {when} UTC{note}", "small")
                if alert["state"] == "muted":
                    scope = mute_scope(alert["mute_battery_id"], alert["mute_rule"])
                    muted_by = f"{alert['muted_by']} until {timestamp(alert['mute_until'])} UTC"
                    text(f"{scope}: muted by {muted_by}: {alert['mute_reason']}", "muted small")
            with div("acts"):
                if self._visitor.name is not None and not is_resolved:
                    self._actions(alert)
        drawn = _Drawn(alert, element, message, since)
        self._update_text(drawn)
        return drawn

    def _update_text(self, drawn: _Drawn) -> None:
        """Update message and duration, by event time, which differs from wall-clock time in a replay."""
        alert, rule = drawn.alert, RULES[drawn.alert["rule"]]
        severity: Severity = alert["severity"]
        if alert["state"] == "resolved":
            lasted = age(alert["opened_at"], alert["cleared_at"])
            set_text(drawn.since, f"{timestamp(alert['opened_at'])} UTC, lasted {lasted}")
            set_text(drawn.message, rule.reason(alert["value"], severity))
            return
        now = self._context.live.snapshot.rows.get(alert["battery_id"], {})
        value, time = rule.value(now), now.get("time")
        lasted = f", for {age(alert['opened_at'], time)}" if time is not None else ""
        set_text(drawn.since, f"since {timestamp(alert['opened_at'])} UTC{lasted}")
        set_text(drawn.message, rule.reason(alert["value"] if value is None else value, severity))

    def _actions(self, alert: StoreRow) -> None:
        if alert["acknowledged_by"] is None:
            button("Acknowledge", lambda: self._acknowledge([alert]))
        if alert["state"] == "open":
            button("Mute", lambda: self._mute(alert))
            return
        scope = alert["mute_battery_id"], alert["mute_rule"]
        is_single = scope == (alert["battery_id"], alert["rule"])

        action_button("Unmute" if is_single else "Unmute all", lambda: self._unmute(*scope))

    def _acknowledge(self, alerts: list[StoreRow]) -> None:
        seen: dict[int, Severity] = {alert["alert_id"]: alert["severity"] for alert in alerts}

        def change() -> str | None:
            done = self._context.alerts.acknowledge(seen, by=self._visitor.name or "", note=note.value or "")
            if done == len(seen):
                return None
            return f"{done} of {len(seen)} alerts acknowledged; the others have changed."

        with form_dialog(self._dialogs, _title(alerts), "Acknowledge", lambda: self._submit(change)):
            for alert in alerts[:_ALERTS_NAMED]:
                text(f"{alert['battery_id']}: {alert['reason']}", "small")
            if len(alerts) > _ALERTS_NAMED:
                text(f"and {len(alerts) - _ALERTS_NAMED} more", "muted small")
            hint = f"recorded with your name, {self._visitor.name}"
            note = text_field("Comment (optional)", hint, lines=3, focus=True)

    def _mute(self, alert: StoreRow) -> None:
        title = RULES[alert["rule"]].title
        scopes = {alert["battery_id"]: f"{alert['battery_id']} only", _ALL_BATTERIES: "All batteries"}

        def change() -> None:
            self._context.alerts.mute(
                None if scope.value == _ALL_BATTERIES else scope.value,
                alert["rule"],
                hours=float(hours.value),
                by=self._visitor.name or "",
                reason=reason.value or "",
            )

        with form_dialog(self._dialogs, f"Mute {title.lower()} alerts", "Mute", lambda: self._submit(change)):
            scope = choice_field("Applies to", scopes, alert["battery_id"])
            hours = choice_field("Duration", MUTE_HOURS, 8, "The alert is still tracked and reappears afterwards.")
            reason = text_field("Reason", f"recorded with your name, {self._visitor.name}", focus=True)

    async def _submit(self, change: Callable[[], str | None]) -> str | None:
        """Error of `change` for a dialog; None if it was stored."""
        try:
            message = await run_change(self._visitor, change)
        except AlertChangedError as error:
            message = error.sentence
        except TwinError as error:
            return error.sentence
        if message is not None:
            ui.notify(message, type="warning")
        await self.load()
        return None

    async def _unmute(self, battery_id: str | None, rule: str | None) -> None:
        try:
            await run_change(self._visitor, lambda: self._context.alerts.unmute(battery_id, rule))
        except TwinError as error:
            ui.notify(error.sentence, type="warning")
        await self.load()


async def run_change(visitor: Visitor, change: Callable[[], _T]) -> _T:
    """Result of `change`, run in a thread.

    Raises:
        TwinError: the visitor is not logged in any more, or an error of `change`.
    """
    if visitor.name is None:
        raise TwinError("Your login has expired: log in again.", field="login")
    return await asyncio.to_thread(change)


def mute_scope(battery_id: str | None, rule: str | None) -> str:
    """Rule and batteries of a mute."""
    title = "All alerts" if rule is None else RULES[rule].title if rule in RULES else rule
    return f"{title}, {battery_id or 'all batteries'}"


def _title(alerts: list[StoreRow]) -> str:
    if len(alerts) == 1:
        alert = alerts[0]
        return f"{alert['battery_id']}: {RULES[alert['rule']].title.lower()} {alert['severity']}"
    critical = sum(alert["severity"] == "CRITICAL" for alert in alerts)
    return f"Acknowledge {len(alerts)} alerts: {critical} CRITICAL, {len(alerts) - critical} WARNING"


def _content(alert: StoreRow | None) -> StoreRow | None:
    """The row without the columns that depend on other alerts of its state."""
    return None if alert is None else {key: alert[key] for key in alert if key not in ("state_total", "rank")}


def _evidence(alert: StoreRow) -> None:
    known = {name: alert["evidence"].get(name) for name in _EVIDENCE}
    shown = [
        f"{name} {number(known[column], decimals, unit)}"
        for column, (name, decimals, unit) in _EVIDENCE.items()
        if known[column] is not None
    ]
    with div("evidence"):
        for item in (f"values when it became {alert['severity']}:", *shown):
            text(item, tag="span")
