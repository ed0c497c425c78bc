"""Dialogs with labelled fields, an error message beside the buttons, and submission by Enter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nicegui import ui

from console.pages.components import button, div, set_text, text

_MAX_LENGTH = 500


@contextmanager
def form_dialog(
    box: ui.element, title: str, label: str, submit: Callable[[], Awaitable[str | None]], *, working: str = ""
) -> Iterator[None]:
    """Context manager that opens a dialog around the fields that its body creates.

    Args:
        box: element that holds the dialog; it must not be redrawn while the dialog is open.
        label: text of the button that submits.
        submit: returns a sentence that the dialog shows, or None to close it.
        working: shown while `submit` runs.
    """
    is_running = False

    async def send() -> None:
        nonlocal is_running
        if is_running:  # a second click was already under way
            return
        is_running = True
        send_button.props("disabled")
        set_text(problem, "")
        set_text(status, working)
        try:
            sentence = await submit()
        finally:
            is_running = False
            set_text(status, "")
            send_button.props(remove="disabled")
        if sentence is None:
            dialog.close()
        else:
            set_text(problem, sentence)

    with box, ui.dialog().props(f'aria-label="{title}"') as dialog, ui.card().classes("form"):
        text(title, tag="h2")
        with ui.element("form").on("submit.prevent", send):
            yield
            problem = text("", "problem").props('role="alert"')
            status = text("", "muted small").props('role="status"')
            with div("acts"):
                with ui.element("button").classes("quiet primary").props('type="submit"') as send_button:
                    text(label, tag="span")
                button("Cancel", dialog.close)
    dialog.on("hide", dialog.delete)
    dialog.open()


def text_field(label: str, hint: str = "", *, lines: int = 1, focus: bool = False) -> Any:
    """Text field with its label above; `lines` above 1 for a text area."""
    with div("field"):
        field: Any = ui.textarea() if lines > 1 else ui.input()
        field.props(f"outlined dense maxlength={_MAX_LENGTH}" + (f" rows={lines}" if lines > 1 else ""))
        if focus:
            field.props("autofocus")
        _label(label, hint, f"field-{field.id}", field)
    return field


def choice_field(label: str, options: Mapping[Any, str], value: Any, hint: str = "") -> Any:
    """Radio buttons with a label above."""
    with div("field"):
        field = ui.radio(dict(options), value=value).props(f'inline dense role="radiogroup" aria-label="{label}"')
        _label(label, hint, "", field)
    return field


def _label(label: str, hint: str, target: str, field: ui.element) -> None:
    title = text(label, "", "label")
    if target:
        title.props(f'for="{target}"')
        field.props(f'for="{target}"')
    title.move(target_index=0)
    if hint:
        text(hint, "muted small")
