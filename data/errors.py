"""The error that a user of the project is meant to read."""

from __future__ import annotations


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
