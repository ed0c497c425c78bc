"""Rows as text for COPY.

A JSON array without its brackets is CSV in which NULL is written null and a quote is escaped by a backslash, so orjson
can write it: 3 us a reading where the csv module takes 30.  It is exact for every value but text with control
characters, which JSON would spell out; that is escaped here instead.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import orjson

from telemetry.batch import Row
from telemetry.contract import Field

#: What follows WITH in the COPY statement that reads the text.
COPY_OPTIONS = r"(FORMAT csv, NULL 'null', ESCAPE E'\\')"

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC


def copy_text(fields: Sequence[Field], rows: Iterable[Row]) -> io.BytesIO:
    """`rows` in UTF-8, a line each, led by its ordinal; None, NaN and NaT become NULL.

    Raises:
        TypeError, ValueError: a value that no column takes, or text that is not Unicode.
    """
    columns = [field.name for field in fields]
    # One further: the ordinal comes first.
    bools = [place for place, field in enumerate(fields, 1) if field.kind == "bool"]
    texts = [place for place, field in enumerate(fields, 1) if field.kind == "text"]
    lines = []
    for ordinal, row in enumerate(rows):
        values = [ordinal, *map(row.get, columns)]
        for place in bools:
            values[place] = _bool(values[place])
        for place in texts:
            values[place] = _text(values[place])
        lines.append(orjson.dumps(values, _plain, _OPTIONS)[1:-1])
    return io.BytesIO(b"\n".join(lines))


def _bool(value: object) -> bool | None:
    """Tables hold truth as 0.0, 1.0 and NaN where some values are missing."""
    return None if value is None or value != value else bool(value)


def _text(value: object) -> str | orjson.Fragment | None:
    if value is None or value != value:
        return None
    text = str(value)
    if text.isprintable():
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return orjson.Fragment(f'"{quoted}"'.encode())


def _plain(value: object) -> str | None:
    """What orjson does not know: the times of pandas."""
    return None if value != value else str(value)
