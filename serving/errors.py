"""What the service answers when it cannot answer."""

from __future__ import annotations

import math
import reprlib

from data.errors import TwinError

_MAX_TEXT = 200


class RequestError(TwinError):
    """A request that cannot be answered, and the HTTP status that says so."""

    def __init__(self, status: int, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence, field=field, value=value)
        self.status = status


def error_body(error: TwinError) -> dict[str, object]:
    """`error` in the contract's form; always small and always valid JSON, whatever was sent."""
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
