"""Alerts in lists that people act on: open, muted, over; each is drawn anew only where it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from console.alerts.alert_store import AlertChangedError, Chosen
from console.alerts.rules import RULES, Category, Severity
from console.connection_pool import StoreRow, StoreUnavailableError
from console.live_updates import Snapshot
from console.pages.components import acting, age, button, clock, div, empty, number, set_text, text
from console.pages.context import Context, Visitor
from telemetry.errors import TwinError

#: Acknowledgements of others, and mutes that run out, are seen within so long.
REFRESH_S = 10.0
_MUTE_HOURS = {1: "1 hour", 8: "8 hours", 24: "1 day", 168: "1 week"}
_EVIDENCE = {
    "temperature": ("hottest probe", 1, "°C"), "ambient_temperature": ("ambient", 1, "°C"), "soc": ("charge", 1, "%"),
    "soh": ("health", 1, "%"), "soh_predicted": ("health predicted", 1, "%"), "current": ("current", 1, "A"),
    "voltage": ("voltage", 1, "V"), "failure_probability": ("failure", 2, ""), "rul_prediction": ("life left", 0, ""),
    "charge_cycles": ("cycles", 0, ""),
}  # fmt: skip
_EVERY = "*"  # no battery is called so
_STATES = {"open": "Open", "muted": "Muted", "over": "Over"}


@dataclass
class _Drawn:
    """An alert on the page; `sentence` and `when` follow the battery."""

    alert: StoreRow
    element: ui.element
    sentence: ui.html
    when: ui.html


class AlertList:
    """Alerts of some categories or of one battery, drawn where it is made; what did not change keeps focus and fold.

    Args:
        most: so many of each state at first, and so many more each time that somebody asks for more.
    """

    def __init__(
        self,
        context: Context,
        visitor: Visitor,
        *,
        battery_id: str | None = None,
        categories: tuple[Category, ...] | None = None,
        most: int = 50,
    ) -> None:
        self._context = context
        self._visitor = visitor
        self._battery_id = battery_id
        self._rules = [rule.name for rule in RULES.values() if categories is None or rule.category in categories]
        self._text = ""
        self._step = self._most = most
        self._seen: object = None
        self._drawn: dict[int, _Drawn] = {}
        self._dialogs = div()
        self._said = div()
        with self._said:
            text("Looking …", "muted small")
        self._acts = div("row-wrap")
        with self._acts:
            button("Acknowledge all of these …", lambda: self._acknowledge(self._unacknowledged()))
        self._acts.set_visibility(False)
        self._titles: dict[str, ui.html] = {}
        self._groups, self._lists, self._more = {}, {}, {}
        for state in _STATES:
            with self._group(state) as self._groups[state]:
                self._lists[state] = div()
                self._more[state] = acting("Show more", self._show_more)
            self._groups[state].set_visibility(False)
        context.live.changed.subscribe(self._notice)
        ui.timer(0.05, self.load, once=True)
        ui.timer(REFRESH_S, self.load)

    async def search(self, wanted: str) -> None:
        """Show those of batteries whose id or fleet holds `wanted`."""
        self._text, self._most = wanted, self._step
        await self.load()

    async def load(self) -> None:
        """Ask the store and draw what differs."""
        self._seen = self._ours(self._context.live.snapshot)
        chosen = Chosen(self._battery_id, self._rules, self._text)
        try:
            alerts = await asyncio.to_thread(self._context.alerts.alerts, chosen, most=self._most)
        except StoreUnavailableError as error:
            self._say("Alerts are not known now", error.sentence)
            return
        by_state = {state: [alert for alert in alerts if alert["state"] == state] for state in _STATES}
        self._show(by_state)
        if by_state["open"]:
            self._said.clear()
            if (total := by_state["open"][0]["of_state"]) > len(by_state["open"]):
                with self._said:
                    text(f"{total:,} are open; the worst {len(by_state['open']):,} are shown.", "muted small")
        elif by_state["muted"]:
            self._say("All quiet", "Only muted ones are open here.")
        else:
            self._say("All quiet", f"No alert is open {'of such a battery' if self._text.strip() else 'here'}.")

    def _ours(self, snapshot: Snapshot) -> object:
        rules = set(self._rules)
        return {
            key: (severity, key in snapshot.muted)
            for key, severity in snapshot.open_alerts.items()
            if key[1] in rules and self._battery_id in (None, key[0])
        }

    async def _notice(self, snapshot: Snapshot, changed: frozenset[str]) -> None:
        if snapshot.problem is not None:
            return
        for drawn in self._drawn.values():
            if drawn.alert["battery_id"] in changed:
                self._follow(drawn)
        if self._ours(snapshot) != self._seen:
            await self.load()

    def _show(self, by_state: Mapping[str, list[StoreRow]]) -> None:
        kept = {alert["alert_id"]: alert for alerts in by_state.values() for alert in alerts}
        for alert_id, drawn in list(self._drawn.items()):
            if _content(drawn.alert) != _content(kept.get(alert_id)):
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
            total = len(alerts) if state == "over" or not alerts else alerts[0]["of_state"]
            is_cut = len(alerts) == self._most if state == "over" else total > len(alerts)
            self._more[state].set_visibility(is_cut)
            self._groups[state].set_visibility(bool(alerts))
            if state in self._titles:
                newest = "the newest " if state == "over" and is_cut else ""
                set_text(self._titles[state], f"{_STATES[state]} ({newest}{total})")
        self._acts.set_visibility(self._visitor.name is not None and len(self._unacknowledged()) > 1)

    def _say(self, title: str, what: str) -> None:
        self._said.clear()
        with self._said:
            empty(title, what)

    def _group(self, state: str) -> ui.element:
        if state == "open":
            return div()
        with ui.element("details") as fold, ui.element("summary").classes("muted small fold"):
            self._titles[state] = text(_STATES[state], tag="span")
        return fold

    async def _show_more(self) -> None:
        self._most += self._step
        await self.load()

    def _unacknowledged(self) -> list[StoreRow]:
        alerts = [drawn.alert for drawn in self._drawn.values()]
        return [alert for alert in alerts if alert["state"] == "open" and alert["acknowledged_by"] is None]

    def _draw(self, alert: StoreRow) -> _Drawn:
        is_over = alert["state"] == "over"
        with div("alert over" if is_over else "alert") as element:
            with div():
                text(alert["severity"], f"chip s-{alert['severity']}", "span")
                when = text("", "muted small")
            with div():
                with div("row-wrap"):
                    if self._battery_id is None:
                        ui.link(alert["battery_id"], f"/battery/{alert['battery_id']}")
                    sentence = text("", tag="span")
                _evidence(alert)
                if alert["acknowledged_by"]:
                    note = f": {alert['note']}" if alert["note"] else ""
                    text(f"{alert['acknowledged_by']} knows since {clock(alert['acknowledged_at'])} UTC{note}", "small")
                if alert["state"] == "muted":
                    scope = mute_scope(alert["mute_battery_id"], alert["mute_rule"])
                    until = f"{alert['muted_by']} until {clock(alert['mute_until'])} UTC"
                    text(f"{scope} muted by {until}: {alert['mute_reason']}", "muted small")
            with div("acts"):
                if self._visitor.name is not None and not is_over:
                    self._actions(alert)
        drawn = _Drawn(alert, element, sentence, when)
        self._follow(drawn)
        return drawn

    def _follow(self, drawn: _Drawn) -> None:
        """Say how it is now, by the battery's own clock, which is another where the past is played again."""
        alert, rule = drawn.alert, RULES[drawn.alert["rule"]]
        severity: Severity = alert["severity"]
        if alert["state"] == "over":
            lasted = age(alert["opened_at"], alert["cleared_at"])
            set_text(drawn.when, f"{clock(alert['opened_at'])} UTC, lasted {lasted}")
            set_text(drawn.sentence, rule.reason(alert["value"], severity))
            return
        now = self._context.live.snapshot.rows.get(alert["battery_id"], {})
        value, time = rule.value(now), now.get("time")
        lasted = f", for {age(alert['opened_at'], time)}" if time is not None else ""
        set_text(drawn.when, f"since {clock(alert['opened_at'])} UTC{lasted}")
        set_text(drawn.sentence, rule.reason(alert["value"] if value is None else value, severity))

    def _actions(self, alert: StoreRow) -> None:
        if alert["acknowledged_by"] is None:
            button("Acknowledge", lambda: self._acknowledge([alert]))
        if alert["state"] == "open":
            button("Mute", lambda: self._mute(alert))
            return
        scope = alert["mute_battery_id"], alert["mute_rule"]
        is_its_own = scope == (alert["battery_id"], alert["rule"])

        async def unmute() -> None:
            await self._do(lambda: self._context.alerts.unmute(*scope))

        acting("Unmute" if is_its_own else "Unmute all", unmute)

    def _acknowledge(self, alerts: list[StoreRow]) -> None:
        seen: dict[int, Severity] = {alert["alert_id"]: alert["severity"] for alert in alerts}
        with self._dialogs, ui.dialog() as dialog, ui.card():
            text(_title(alerts), "h2")
            note = (
                ui.input("Note: what is being done").props("autofocus outlined dense maxlength=500").classes("w-full")
            )

            def change() -> str | None:
                done = self._context.alerts.acknowledge(seen, by=self._visitor.name or "", note=note.value or "")
                return None if done == len(seen) else f"{done} of {len(seen)} acknowledged; the others have changed."

            with div("acts row-wrap"):
                acting("Acknowledge", lambda: self._do(change, dialog))
                button("Cancel", dialog.close)
        dialog.open()

    def _mute(self, alert: StoreRow) -> None:
        title = RULES[alert["rule"]].title
        scopes = {alert["battery_id"]: f"{alert['battery_id']} only", _EVERY: "every battery"}
        with self._dialogs, ui.dialog() as dialog, ui.card():
            text(f"Mute {title.lower()}", "h2")
            scope = ui.select(scopes, value=alert["battery_id"], label="Of").props("outlined dense").classes("w-full")
            hours = ui.select(_MUTE_HOURS, value=8, label="For").props("outlined dense").classes("w-full")
            reason = ui.input("Reason").props("outlined dense maxlength=500").classes("w-full")

            def change() -> None:
                self._context.alerts.mute(
                    None if scope.value == _EVERY else scope.value,
                    alert["rule"],
                    hours=float(hours.value or 1),
                    by=self._visitor.name or "",
                    reason=reason.value or "",
                )

            with div("acts row-wrap"):
                acting("Mute", lambda: self._do(change, dialog))
                button("Cancel", dialog.close)
        dialog.open()

    async def _do(self, change: Callable[[], str | None], dialog: Any = None) -> None:
        if await do(self._visitor, change, dialog):
            await self.load()


async def do(visitor: Visitor, change: Callable[[], str | None], dialog: Any = None) -> bool:
    """Let `change` write, say what it answers, close the dialog; whether there may be something new to see."""
    if visitor.name is None:
        ui.notify("Your session is over: log in again.", type="warning")
        return False
    try:
        said = await asyncio.to_thread(change)
    except AlertChangedError as error:
        said = error.sentence
    except TwinError as error:
        ui.notify(error.sentence, type="warning")
        return False
    if said is not None:
        ui.notify(said, type="warning")
    if dialog is not None:
        dialog.close()
    return True


def mute_scope(battery_id: str | None, rule: str | None) -> str:
    """What a mute is about."""
    title = "Every alert" if rule is None else RULES[rule].title if rule in RULES else rule
    return f"{title} of {battery_id or 'every battery'}"


def _title(alerts: list[StoreRow]) -> str:
    if len(alerts) == 1:
        alert = alerts[0]
        return f"{alert['battery_id']}: {RULES[alert['rule']].title.lower()} {alert['severity']}"
    critical = sum(alert["severity"] == "CRITICAL" for alert in alerts)
    return f"Acknowledge {len(alerts)} alerts: {critical} CRITICAL, {len(alerts) - critical} WARNING"


def _content(alert: StoreRow | None) -> StoreRow | None:
    """Without what others of its state change."""
    return None if alert is None else {key: alert[key] for key in alert if key not in ("of_state", "place")}


def _evidence(alert: StoreRow) -> None:
    known = {name: alert["evidence"].get(name) for name in _EVIDENCE}
    shown = [
        f"{name} {number(known[column], decimals, unit)}"
        for column, (name, decimals, unit) in _EVIDENCE.items()
        if known[column] is not None
    ]
    with div("evidence"):
        for words in (f"when it became {alert['severity']}:", *shown):
            text(words, tag="span")
