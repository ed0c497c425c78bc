"""Small parts that several pages share."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

DASH = "–"
#: Nothing heard for so long, by the store's clock: the battery is silent.
SILENT_S = 60.0


def number(value: float | None, decimals: int = 1, unit: str = "") -> str:
    """A number for people; a dash where it is not known."""
    if value is None:
        return DASH
    return f"{value:,.{decimals}f}{f' {unit}' if unit else ''}"


def age(since: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in the largest unit that fits."""
    if since is None:
        return DASH
    seconds = max(((now or datetime.now(UTC)) - since).total_seconds(), 0.0)
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def clock(time: datetime | None) -> str:
    """A moment in UTC."""
    return DASH if time is None else time.strftime("%Y-%m-%d %H:%M:%S")


def moment(time: datetime | None, now: datetime | None = None) -> str:
    """A moment in UTC; its date where that is not today's."""
    if time is None:
        return DASH
    is_today = time.astimezone(UTC).date() == (now or datetime.now(UTC)).date()
    return f"{time:%H:%M:%S} UTC" if is_today else f"{clock(time)} UTC"


def status_of(row: dict[str, Any], now: datetime | None) -> str:
    """NORMAL, WARNING or CRITICAL; SILENT where nothing was heard for `SILENT_S` as of `now`, the store's clock."""
    heard = row["created_at"]
    if heard is None or now is None or (now - heard).total_seconds() > SILENT_S:
        return "SILENT"
    return str(row["status"])


def power_kw(row: dict[str, Any]) -> float | None:
    """Power of a reading, kW, positive while discharging; None where it cannot be known."""
    known = row["voltage"] is not None and row["current"] is not None
    return row["voltage"] * row["current"] / 1e3 if known else None


def div(classes: str = "") -> ui.element:
    """A container."""
    return ui.element("div").classes(classes)


@contextmanager
def panel(title: str, sub: str = "") -> Iterator[ui.element]:
    """A titled box."""
    with ui.element("section").classes("panel").props(f'aria-label="{html.escape(title)}"') as box:
        heading(title, sub)
        yield box


def heading(title: str, sub: str = "") -> None:
    """Title of a panel and what one should know about it."""
    extra = f' <span class="sub">· {html.escape(sub)}</span>' if sub else ""
    ui.html(f"{html.escape(title)}{extra}", tag="h2", sanitize=False)


def text(content: str, classes: str = "", tag: str = "div") -> ui.html:
    """Plain text in an element; never read as HTML."""
    return ui.html(html.escape(content), tag=tag, sanitize=False).classes(classes)


def set_text(element: ui.html, content: str) -> None:
    """Change what `text` made."""
    element.set_content(html.escape(content))


def chip(status: str) -> ui.html:
    """Status by colour, shape and word."""
    return text(status, f"chip s-{status}", "span")


def empty(title: str, what: str) -> ui.element:
    """A state for 'nothing here yet'."""
    with div("empty") as box:
        text(title, tag="b")
        text(what)
    return box


def facts(pairs: Iterable[tuple[str, str]]) -> ui.html:
    """Names and values."""
    return ui.html(facts_html(pairs), tag="dl", sanitize=False).classes("facts")


def facts_html(pairs: Iterable[tuple[str, str]]) -> str:
    """The inside of `facts`."""
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in pairs)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> ui.html:
    """A plain table; `numeric` columns are set to the right."""

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
    """A plain button that the keyboard reaches."""
    element = ui.element("button").classes(classes).props('type="button"')
    with element:
        text(label, tag="span")
    if pressed is not None:
        press(element, pressed)
    return element.on("click", on_click)


def acting(label: str, work: Callable[[], Awaitable[None]]) -> ui.element:
    """A button that cannot be pressed again before what it began has ended."""

    async def act() -> None:
        if "disabled" in element.props:  # a second click was on its way already
            return
        element.props("disabled")
        try:
            await work()
        finally:
            element.props(remove="disabled")

    element = button(label, act)
    return element


def press(element: ui.element, is_pressed: bool) -> None:
    """Mark a button as the chosen one, or not."""
    element.props(f'aria-pressed="{"true" if is_pressed else "false"}"')
