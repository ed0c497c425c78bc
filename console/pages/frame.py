"""Layout shared by all pages: navigation, connection status, notices, theme, login; and the error page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from console.access import login_path
from console.alerts.rules import Category
from console.forwarded import path_prefix
from console.live_updates import FleetSnapshot
from console.pages.components import age, button, div, empty, set_text, text
from console.pages.context import PageContext, Visitor

PAGES = (("/", "Fleet"), ("/alerts", "Alerts"), ("/models", "Models"), ("/data", "Data"), ("/docs", "API"))
#: Counters beside the link to the alerts: low charge is counted separately.
_COUNTS: tuple[tuple[str, tuple[Category, ...]], ...] = (
    ("Safety and health", ("safety", "health")),
    ("Low charge", ("charge",)),
)
_STATIC = "/console-static"


def _prefix() -> str:
    """Path prefix of the proxy through which the page was opened; links of NiceGUI's own elements have it already."""
    return path_prefix(ui.context.client.request.headers)


def _add_head() -> None:
    static = f"{_prefix()}{_STATIC}"
    ui.add_head_html(
        f'<link rel="stylesheet" href="{static}/console.css">\n<script src="{static}/console.js"></script>'
    )


@contextmanager
def frame(context: PageContext, visitor: Visitor, title: str, path: str) -> Iterator[None]:
    """Context manager that builds the layout around the content of a page."""
    ui.page_title(f"{title} · Battery twin")
    _add_head()
    _count_open_page(context)
    with ui.header().classes("bar"):
        ui.link("Battery twin", "/").classes("brand")
        counts = _navigation(path)
        div("grow")
        connection = text("", "connection").props('role="status"')
        button("Theme", None, classes="quiet").on("click", js_handler="() => twin.toggleTheme()").props(
            'aria-label="Switch between light and dark theme"'
        )
        _account(visitor, path)
    with div("twin"):
        notice, message = _notice()
        alerts_notice, alerts_message = _notice()
        yield

    def show(snapshot: FleetSnapshot) -> None:
        if not visitor.may_read:
            ui.navigate.to(login_path(path))
            return
        for (_, categories), count in zip(_COUNTS, counts, strict=True):
            open_count = len(snapshot.alerts_of(*categories))
            set_text(count, str(open_count))
            count.set_visibility(open_count > 0)
        notice.set_visibility(snapshot.problem is not None)
        if snapshot.problem is None:
            connection.classes(remove="unavailable")
            set_text(connection, "Live" if snapshot.taken_at else "Connecting")
        else:
            connection.classes("unavailable")
            set_text(connection, "Telemetry store unavailable")
            since = f" The data shown are {age(snapshot.taken_at)} old." if snapshot.taken_at else ""
            set_text(message, f"{snapshot.problem}{since} Retrying every few seconds.")
        alerts_notice.set_visibility(snapshot.alerts_problem is not None)
        if snapshot.alerts_problem is not None:
            set_text(
                alerts_message,
                f"Alerts cannot be stored. {snapshot.alerts_problem} "
                "No alert is opened or resolved until then; the data of the batteries are up to date.",
            )

    show(context.live.snapshot)
    context.live.changed.subscribe(lambda snapshot, _: show(snapshot))


def _notice() -> tuple[ui.element, ui.html]:
    """Error notice and its text element."""
    with div("notice bad").props('role="alert"') as box:
        return box, text("")


def _navigation(path: str) -> list[ui.html]:
    counts = []
    with ui.element("nav").classes("tabs").props('aria-label="pages"'):
        for address, name in PAGES:
            link = ui.element("a").props(f'href="{_prefix()}{address}"')
            if address == path:
                link.props('aria-current="page"')
            with link:
                text(name, tag="span")
                if address == "/alerts":
                    for title, categories in _COUNTS:
                        count = text("", f"count {' '.join(categories)}", "span")
                        counts.append(count.props(f'title="{title}: open alerts, not muted"'))
    return counts


def _account(visitor: Visitor, path: str) -> None:
    if visitor.name is None:
        with ui.element("a").classes("quiet").props(f'href="{login_path(path, _prefix())}"'):
            text("Log in", tag="span")
        return
    logout = f'method="post" action="{_prefix()}/logout"'
    with ui.element("form").props(logout), ui.element("button").classes("quiet"):
        text(f"Log out {visitor.name}", tag="span")


def _count_open_page(context: PageContext) -> None:
    """Count the page as open until its client disconnects: the store is polled less often without open pages."""
    client = ui.context.client
    context.live.open_pages += 1

    def close() -> None:
        context.live.open_pages -= 1

    client.on_delete(close)


def error_page() -> None:
    """Page shown after an exception in a page function; it contains no details of the error."""
    ui.page_title("Error · Battery twin")
    _add_head()
    with div("twin"), div("panel"):
        empty("Internal error", "The page could not be built; see the log of the console.").props('role="alert"')
        ui.link("All batteries", "/")
