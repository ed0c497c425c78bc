"""What the service answers when it cannot answer."""

from __future__ import annotations

from telemetry.errors import TwinError


class RequestError(TwinError):
    """A request that cannot be answered, and the HTTP status that says so."""

    def __init__(self, status: int, sentence: str, *, field: str | None = None, value: object = None) -> None:
        super().__init__(sentence, field=field, value=value)
        self.status = status
