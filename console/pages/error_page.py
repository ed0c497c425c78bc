"""What is shown in place of a page that could not be drawn: a sentence, never what went wrong inside."""

from __future__ import annotations

from nicegui import ui

from console.pages.components import div, empty
from console.pages.frame import HEAD


def failed_page() -> None:
    """Draw it; the error itself is in the log."""
    ui.page_title("Failed · Battery twin")
    ui.add_head_html(HEAD)
    with div("twin"), div("panel"):
        empty("This page could not be drawn", "The console's log says why. Other pages may work.").props('role="alert"')
        ui.link("All batteries", "/")
