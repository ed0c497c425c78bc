"""Reads CSV files into tables of uninterpreted text cells, and derives battery ids from file names."""

from __future__ import annotations

import csv
import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pandas as pd

from telemetry.contract import BATTERY_ID
from telemetry.errors import TwinError
from telemetry.field_map import UTF_8

#: Lines that are searched for the header; some publishers put a title above it.
_HEADER_WITHIN = 20
#: Delimiters that the error message for a missing column suggests.
_OTHER_DELIMITERS = (";", "\t", "|", ",")


@dataclass(frozen=True)
class RawTable:
    """One CSV file as text.

    Attributes:
        name: file name, for messages and `source_file`.
        cells: str columns named as in the file; the index is the number of the data row, from 1.
        malformed: row number -> reason, for rows with the wrong number of cells.
        header: all columns of the file, also those that were not requested.
        malformed_cells: row number -> its unchanged cells, for the rows in `malformed`.
    """

    name: str
    cells: pd.DataFrame
    malformed: dict[int, str]
    header: tuple[str, ...]
    malformed_cells: Mapping[int, list[str]] = field(default_factory=dict)

    @property
    def rows_read(self) -> int:
        """Data rows in the file, blank lines not counted."""
        return len(self.cells) + len(self.malformed)


def csv_files(path: Path) -> list[Path]:
    """The CSV files of a folder (not of its subfolders) ordered by name, or the one file.

    Raises:
        TwinError: there is no file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TwinError(
            f"{path} does not exist; set source.path to the folder of the data", field="source.path", value=str(path)
        )
    files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".csv")
    if not files:
        raise TwinError(
            f"{path} holds no CSV file; set source.path to the folder of the data", field="source.path", value=str(path)
        )
    return files


def read_csv(
    path: Path, required: Sequence[str], *, also: Sequence[str] = (), delimiter: str = ",", encoding: str = UTF_8
) -> RawTable:
    """The columns `required` and, where present, `also` of a CSV file.

    Raises:
        TwinError: the file cannot be read, lacks a column or has no row.
    """
    try:
        with path.open("rb") as stream:
            return read_csv_stream(stream, path.name, required, also=also, delimiter=delimiter, encoding=encoding)
    except OSError as error:
        raise TwinError(f"{path.name} cannot be read: {error.strerror or error}", field="source.path") from error


def read_csv_stream(
    stream: IO[bytes],
    name: str,
    required: Sequence[str],
    *,
    also: Sequence[str] = (),
    delimiter: str = ",",
    encoding: str = UTF_8,
) -> RawTable:
    """As `read_csv`, from a binary stream, which is closed."""
    try:
        with io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
            return _parse(csv.reader(text, delimiter=delimiter, strict=True), name, required, also)
    except UnicodeError as error:
        called = "UTF-8" if encoding == UTF_8 else encoding
        raise TwinError(
            f"{name} is not a CSV file in {called}; set `encoding` in the field map to its encoding (cp1252 and"
            " utf-16 are common), convert it or remove it",
            field="source.path",
            value=name,
        ) from error
    except csv.Error as error:
        raise TwinError(
            f"{name} is not a readable CSV file ({error}); repair or remove it", field="source.path", value=name
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise damaged_zip(name) from error


def damaged_zip(name: str) -> TwinError:
    """The error for an archive that cannot be read."""
    return TwinError(f"{name} is a damaged or truncated zip; download it again", field="source.path", value=name)


def battery_id_from(stem: str) -> str:
    """A file name as a battery id: characters that the contract does not allow become `-`."""
    kept = "".join(c if BATTERY_ID.match(c) else "-" for c in stem)[:50]
    if not kept:
        raise TwinError("a file without a name gives no battery id; rename it", field="battery_id", value=stem)
    return kept


def distinct_ids(names: Sequence[str], files: Sequence[str]) -> list[str]:
    """Battery ids from the `names` of `files`; two files with the same id are an error, see `claim_id`."""
    claimed: dict[str, str] = {}
    return [claim_id(claimed, name, file) for name, file in zip(names, files, strict=True)]


def claim_id(claimed: dict[str, str], name: str, file: str) -> str:
    """The battery id from `name`, recorded as that of `file` in `claimed`.

    Raises:
        TwinError: another file has this id; both are named.
    """
    battery_id = battery_id_from(name)
    if battery_id in claimed:
        raise TwinError(
            f"the files {claimed[battery_id]!r} and {file!r} both give the battery id {battery_id} (characters outside "
            "A-Z a-z 0-9 _ . - become -, and 50 are kept); rename one of them",
            field="battery_id",
            value=battery_id,
        )
    claimed[battery_id] = file
    return battery_id


def _parse(reader: Iterator[list[str]], name: str, required: Sequence[str], also: Sequence[str]) -> RawTable:
    header = _find_header(reader, name, required)
    wanted = [c for c in dict.fromkeys([*required, *also]) if c in header]
    for column in wanted:
        if header.count(column) > 1:
            raise TwinError(f"{name} has two columns {column}; rename or remove one", field=column, value=name)
    indices = [header.index(column) for column in wanted]
    width = len(header)
    rows: list[list[str]] = []
    numbers: list[int] = []
    malformed: dict[int, str] = {}
    malformed_cells: dict[int, list[str]] = {}
    number = 0
    for row in reader:
        if not row:
            continue
        number += 1
        if len(row) == width:
            rows.append([row[i] for i in indices])
            numbers.append(number)
        else:
            malformed[number] = f"{len(row)} cells, the header has {width}"
            malformed_cells[number] = row
    if number == 0:
        raise TwinError(f"{name} has a header but no rows; remove it or complete it", field="source.path", value=name)
    cells = pd.DataFrame(rows, columns=wanted, index=numbers, dtype=str)
    return RawTable(name, cells, malformed, tuple(header), malformed_cells)


def _find_header(reader: Iterator[list[str]], name: str, required: Sequence[str]) -> list[str]:
    """The first row that has every required column; a title may precede it."""
    seen: list[list[str]] = []
    for row in itertools.islice(reader, _HEADER_WITHIN):
        cells = [cell.strip() for cell in row]
        if set(required) <= set(cells):
            return cells
        seen.append(cells)
    best = max(seen, key=lambda cells: len(set(cells) & set(required)), default=[])
    if not best:
        raise TwinError(f"{name} is empty; remove it or complete it", field="source.path", value=name)
    absent = [column for column in required if column not in best]
    delimiter = next((mark for mark in _OTHER_DELIMITERS if len(best) == 1 and mark in best[0]), None)
    if delimiter is not None:
        raise TwinError(
            f"{name} has the single column {best[0][:200]!r}, so its delimiter seems to be {delimiter!r}; set"
            f" `delimiter: {json.dumps(delimiter)}` in the field map, or correct the file",
            field="delimiter",
            value=name,
        )
    raise TwinError(
        f"{name} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)} (it has: {_short(best)});"
        " correct the file or its field map",
        field=absent[0],
        value=name,
    )


def _short(cells: Sequence[str], count: int = 12) -> str:
    shown = ", ".join(cell[:40] for cell in cells[:count])
    return shown + (", …" if len(cells) > count else "")
