"""The error that a user of the project is meant to read."""

from __future__ import annotations

import math
import reprlib

_MAX_TEXT = 200


class TwinError(ValueError):
    """One sentence that says what is wrong and what to do about it.

    Args:
        sentence: the message, complete in itself.
        field: the parameter, column or JSON path at fault, where there is one.
        value: what was found there.
    """

    def __init__(self, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.field = field
        self.value = value


def error_body(error: TwinError) -> dict[str, object]:
    """`error` in the contract's form for HTTP; always small and always valid JSON, whatever was sent."""
    return {"error": error.sentence, "field": error.field, "value": _shown(error.value)}


def _shown(value: object) -> object:
    """`value` as it was sent where that is short and JSON has it, else a shortened text of it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}… ({len(value)} characters)"
    return reprlib.repr(value)
