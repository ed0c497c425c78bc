"""UI elements and text formatting that several pages share."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

DASH = "–"
#: A battery without a reading for this long, by the database clock, is stale.
STALE_S = 60.0


def number(value: float | None, decimals: int = 1, unit: str = "") -> str:
    """Formatted number with unit; a dash for None."""
    if value is None:
        return DASH
    return f"{value:,.{decimals}f}{f' {unit}' if unit else ''}"


def age(since: datetime | None, now: datetime | None = None) -> str:
    """Elapsed time in its largest unit."""
    if since is None:
        return DASH
    seconds = max(((now or datetime.now(UTC)) - since).total_seconds(), 0.0)
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def timestamp(time: datetime | None) -> str:
    """Date and time in UTC."""
    return DASH if time is None else time.strftime("%Y-%m-%d %H:%M:%S")


def short_timestamp(time: datetime | None, now: datetime | None = None) -> str:
    """Time in UTC, with the date if it is not today."""
    if time is None:
        return DASH
    is_today = time.astimezone(UTC).date() == (now or datetime.now(UTC)).date()
    return f"{time:%H:%M:%S} UTC" if is_today else f"{timestamp(time)} UTC"


def status_of(row: dict[str, Any], now: datetime | None) -> str:
    """NORMAL, WARNING or CRITICAL; STALE if the last reading is older than `STALE_S` at `now`, the database clock."""
    stored_at = row["created_at"]
    if stored_at is None or now is None or (now - stored_at).total_seconds() > STALE_S:
        return "STALE"
    return str(row["status"])


def power_kw(row: dict[str, Any]) -> float | None:
    """Power of a reading, kW, positive while discharging; None without voltage or current."""
    known = row["voltage"] is not None and row["current"] is not None
    return row["voltage"] * row["current"] / 1e3 if known else None


def div(classes: str = "") -> ui.element:
    """A div element."""
    return ui.element("div").classes(classes)


@contextmanager
def panel(title: str, sub: str = "") -> Iterator[ui.element]:
    """A titled section."""
    with ui.element("section").classes("panel").props(f'aria-label="{html.escape(title)}"') as box:
        heading(title, sub)
        yield box


def heading(title: str, sub: str = "") -> None:
    """Title of a panel with an optional subtitle."""
    extra = f' <span class="sub">· {html.escape(sub)}</span>' if sub else ""
    ui.html(f"{html.escape(title)}{extra}", tag="h2", sanitize=False)


def text(content: str, classes: str = "", tag: str = "div") -> ui.html:
    """Element with plain text, escaped."""
    return ui.html(html.escape(content), tag=tag, sanitize=False).classes(classes)


def set_text(element: ui.html, content: str) -> None:
    """Replace the content of an element made by `text`."""
    element.set_content(html.escape(content))


def entry(symbol: str, battery_id: str | None, content: str, when: str = "") -> None:
    """One line of a list: status symbol, link to a battery, text and time."""
    with div("entry"):
        text("", f"chip s-{symbol}", "span").props(f'role="img" aria-label="{symbol.lower()}"')
        with div():
            if battery_id is not None:
                ui.link(battery_id, f"/battery/{battery_id}").classes("id")
            text(content, tag="span")
        text(when, "muted small", "span")


def empty(title: str, hint: str) -> ui.element:
    """Placeholder for a panel without content."""
    with div("empty") as box:
        text(title, tag="b")
        text(hint)
    return box


def facts(pairs: Iterable[tuple[str, str]]) -> ui.html:
    """Definition list of names and values."""
    return ui.html(facts_html(pairs), tag="dl", sanitize=False).classes("facts")


def facts_html(pairs: Iterable[tuple[str, str]]) -> str:
    """HTML content of `facts`."""
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in pairs)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> ui.html:
    """HTML table; `numeric` columns are right-aligned."""

    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=num' if index in numeric else ''}>{html.escape(value)}</{tag}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return ui.html(
        f'<table class="plain"><thead><tr>{cells(columns, "th")}</tr></thead><tbody>{body}</tbody></table>',
        sanitize=False,
    ).classes("scroll")


def button(label: str, on_click: Any, *, pressed: bool | None = None, classes: str = "quiet") -> ui.element:
    """Native button, reachable by keyboard."""
    element = ui.element("button").classes(classes).props('type="button"')
    with element:
        text(label, tag="span")
    if pressed is not None:
        press(element, pressed)
    return element.on("click", on_click)


def action_button(label: str, work: Callable[[], Awaitable[None]]) -> ui.element:
    """Button that is disabled while its handler runs."""

    async def act() -> None:
        if "disabled" in element.props:  # a second click was already under way
            return
        element.props("disabled")
        try:
            await work()
        finally:
            element.props(remove="disabled")

    element = button(label, act)
    return element


def press(element: ui.element, is_pressed: bool) -> None:
    """Set the pressed state of a toggle button."""
    element.props(f'aria-pressed="{"true" if is_pressed else "false"}"')
