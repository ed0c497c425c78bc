"""Exception with a message for users, and its form as an HTTP error body."""

from __future__ import annotations

import json
import math

_MAX_TEXT = 200
_MAX_SHOWN = 60


class TwinError(ValueError):
    """Error whose message is one sentence: what is wrong and how to correct it.

    Args:
        sentence: the message, complete in itself.
        field: the parameter, column or JSON path at fault, where there is one.
        value: the value found there.
    """

    def __init__(self, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.field = field
        self.value = value


def error_body(error: TwinError) -> dict[str, object]:
    """`error` as the contract's HTTP error body; always small and valid JSON, whatever value was sent."""
    return {"error": error.sentence, "field": error.field, "value": _shown(error.value)}


def text_of(value: object) -> str:
    """`value` for a message, shortened; null, true and false are called that, not None, True and False."""
    text = _json(value) if value is None or isinstance(value, bool | list | tuple | dict) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _json(value: object) -> str:
    """The beginning of `value` as JSON: a large value is not converted as a whole."""
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False, skipkeys=True, default=str).iterencode(value):
        text += part
        if len(text) > _MAX_TEXT:
            return f"{text[:_MAX_TEXT]}…"
    return text


def _shown(value: object) -> object:
    """`value` unchanged where it is short and valid JSON, else a shortened text of it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}… ({len(value)} characters)"
    return _json(value)
