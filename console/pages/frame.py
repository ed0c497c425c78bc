"""What is around every page: navigation, how fresh the view is, theme, log in and out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from console.access import login_path
from console.alerts.rules import Category
from console.live_updates import Snapshot
from console.pages.components import age, button, div, set_text, text
from console.pages.context import Context, Visitor

PAGES = (("/", "Fleet"), ("/alerts", "Alerts"), ("/models", "Models"), ("/data", "Data"), ("/docs", "API"))
#: Beside the link to the alerts: an empty battery is not counted among the dangerous ones.
_COUNTS: tuple[tuple[str, tuple[Category, ...]], ...] = (
    ("Safety and health", ("safety", "health")),
    ("Low charge", ("charge",)),
)
_STATIC = "/console-static"
HEAD = f"""
<link rel="stylesheet" href="{_STATIC}/console.css">
<script src="{_STATIC}/console.js"></script>
"""


@contextmanager
def frame(context: Context, visitor: Visitor, title: str, path: str) -> Iterator[None]:
    """Draw the frame; the page goes inside."""
    ui.page_title(f"{title} · Battery twin")
    ui.add_head_html(HEAD)
    _watch(context)
    with ui.header().classes("bar"):
        ui.link("Battery twin", "/").classes("brand")
        counts = _navigation(path)
        div("grow")
        pulse = text("", "pulse").props('role="status"')
        button("Theme", None, classes="quiet").on("click", js_handler="() => twin.toggleTheme()").props(
            'aria-label="light or dark"'
        )
        _account(visitor, path)
    with div("twin"):
        notice, said = _notice()
        alerts_notice, alerts_said = _notice()
        yield

    def show(snapshot: Snapshot) -> None:
        if not visitor.may_look:
            ui.navigate.to(login_path(path))
            return
        for (_, categories), count in zip(_COUNTS, counts, strict=True):
            open_count = len(snapshot.alerts_of(*categories))
            set_text(count, str(open_count))
            count.set_visibility(open_count > 0)
        notice.set_visibility(snapshot.problem is not None)
        if snapshot.problem is None:
            pulse.classes(remove="away")
            set_text(pulse, "live" if snapshot.taken_at else "connecting")
        else:
            pulse.classes("away")
            set_text(pulse, "store away")
            since = f" What you see is {age(snapshot.taken_at)} old." if snapshot.taken_at else ""
            set_text(said, f"{snapshot.problem}{since} The console looks again every few seconds.")
        alerts_notice.set_visibility(snapshot.alerts_problem is not None)
        if snapshot.alerts_problem is not None:
            set_text(
                alerts_said,
                f"Alerts are not kept. {snapshot.alerts_problem} "
                "None opens or ends here meanwhile; the state of each battery is up to date.",
            )

    show(context.live.snapshot)
    context.live.changed.subscribe(lambda snapshot, _: show(snapshot))


def _notice() -> tuple[ui.element, ui.html]:
    """A box for what is wrong, and its text."""
    with div("notice bad").props('role="alert"') as box:
        return box, text("")


def _navigation(path: str) -> list[ui.html]:
    counts = []
    with ui.element("nav").classes("tabs").props('aria-label="pages"'):
        for address, name in PAGES:
            link = ui.element("a").props(f'href="{address}"')
            if address == path:
                link.props('aria-current="page"')
            with link:
                text(name, tag="span")
                if address == "/alerts":
                    for title, categories in _COUNTS:
                        count = text("", f"count {' '.join(categories)}", "span")
                        counts.append(count.props(f'title="{title}, open and not muted"'))
    return counts


def _account(visitor: Visitor, path: str) -> None:
    if visitor.name is None:
        with ui.element("a").classes("quiet").props(f'href="{login_path(path)}"'):
            text("Log in", tag="span")
        return
    with ui.element("form").props('method="post" action="/logout"'), ui.element("button").classes("quiet"):
        text(f"Log out {visitor.name}", tag="span")


def _watch(context: Context) -> None:
    """Count the page while it is open, so that the store is looked at often only for somebody."""
    client = ui.context.client
    context.live.watchers += 1

    def leave() -> None:
        context.live.watchers -= 1

    client.on_delete(leave)
