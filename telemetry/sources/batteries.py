"""Reads the batteries CSV (nominal data of each battery) and merges it into the telemetry of any source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from telemetry.chemistries import CHEMISTRY_NAMES, PARAMETER_SETS
from telemetry.contract import BATTERY_FIELDS, BATTERY_ID, Field
from telemetry.errors import TwinError
from telemetry.sources.base import Telemetry, complete, rejections
from telemetry.sources.raw import read_csv
from telemetry.sources.translate import content

_NAMES = tuple(f.name for f in BATTERY_FIELDS)
_CHOICES = {"chemistry": CHEMISTRY_NAMES, "cell_parameters": PARAMETER_SETS}


@dataclass(frozen=True)
class BatteriesFile:
    """The valid rows of a batteries CSV, in contract columns, and the others.

    Attributes:
        rejected: REJECTED_COLUMNS; such a battery is one without a row.
        notes: on ignored columns and rejected rows.
    """

    table: pd.DataFrame
    rejected: pd.DataFrame
    notes: list[str]


def read_batteries(path: Path) -> BatteriesFile:
    """A CSV with contract columns; every cell but the id may be empty.

    Raises:
        TwinError: the file does not exist, or has no column `battery_id`.
    """
    if not path.is_file():
        raise TwinError(
            f"the batteries table {path} does not exist; correct source.batteries",
            field="source.batteries",
            value=str(path),
        )
    raw = read_csv(path, ["battery_id"], also=_NAMES)
    fields = [f for f in BATTERY_FIELDS if f.name in raw.cells]
    parsed = {f.name: _parsed_and_invalid(raw.cells[f.name], f) for f in fields}
    # By row: field, value and reason of the first fault.
    faults: dict[int, tuple[str, str, str]] = {row: ("", "", reason) for row, reason in raw.malformed.items()}
    for field in fields:
        for row in raw.cells.index[parsed[field.name][1]]:
            faults.setdefault(int(row), (field.name, str(raw.cells.at[row, field.name]).strip(), _allowed(field)))
    table = pd.DataFrame({name: values for name, (values, _) in parsed.items()}, index=raw.cells.index)
    twice = table.loc[table["battery_id"].duplicated(keep=False), "battery_id"].dropna()
    for row, battery_id in zip(twice.index, twice, strict=True):
        faults.setdefault(int(row), ("battery_id", battery_id, "the battery is described twice; keep one row"))
    rejected = [
        ("batteries", path.name, row, field, value, f"{field}: {reason}" if field else reason, content(raw, row))
        for row, (field, value, reason) in sorted(faults.items())
    ]
    ignored = [c for c in raw.header if c not in _NAMES]
    return BatteriesFile(
        complete(table[~table.index.isin(faults)], BATTERY_FIELDS),
        rejections(rejected),
        [
            *(f"{path.name}: column {column} is not one of the contract and was ignored" for column in ignored),
            *(
                f"{path.name}, row {row}: {f'{field} is {value!r}; ' if field else ''}{reason}; the row was not used"
                for row, (field, value, reason) in sorted(faults.items())
            ),
        ],
    )


def merge_batteries(telemetry: Telemetry, file: BatteriesFile) -> Telemetry:
    """`telemetry` with the nominal data of `file`, which takes precedence over that of the source."""
    known = telemetry.batteries.set_index("battery_id")
    described = file.table.set_index("battery_id")
    unknown = sorted(set(described.index) - set(known.index))
    merged = described.loc[described.index.isin(known.index)].reindex(known.index).combine_first(known)
    unknown_notes = [f"the batteries table describes {i}, of which there is no telemetry" for i in unknown]
    return replace(
        telemetry,
        batteries=complete(merged.reset_index(), BATTERY_FIELDS),
        rejected=pd.concat([telemetry.rejected, file.rejected], ignore_index=True),
        rows_read=telemetry.rows_read + len(file.rejected),
        notes=[*telemetry.notes, *file.notes, *unknown_notes],
    )


def fill_defaults(telemetry: Telemetry, defaults: Mapping[str, float | str]) -> Telemetry:
    """`telemetry` with `defaults` in place of missing nominal data.

    Raises:
        TwinError: a default is not a field of a battery or has an impossible value.
    """
    batteries = telemetry.batteries.copy()
    fields = {f.name: f for f in BATTERY_FIELDS if f.name != "battery_id"}
    for name, value in defaults.items():
        if name not in fields:
            raise TwinError(
                f"battery_defaults.{name} is not a field of a battery; known are {', '.join(fields)}",
                field=f"battery_defaults.{name}",
            )
        text = pd.Series([str(value)], index=[1], dtype="str")
        batteries[name] = batteries[name].fillna(_values(text, fields[name], "battery_defaults").iloc[0])
    return replace(telemetry, batteries=complete(batteries, BATTERY_FIELDS))


def _values(text: pd.Series, field: Field, name: str) -> pd.Series:
    """The cells of one column in the contract's type.

    Raises:
        TwinError: one is invalid.
    """
    values, bad = _parsed_and_invalid(text, field)
    if bad.any():
        row, found = next((row, cell) for row, cell, is_bad in zip(text.index, text, bad, strict=True) if is_bad)
        raise TwinError(
            f"{name}, row {row}: {field.name} is {found!r}; {_allowed(field)}", field=field.name, value=found
        )
    return values


def _parsed_and_invalid(text: pd.Series, field: Field) -> tuple[pd.Series, pd.Series]:
    """The cells of one column in the contract's type, and which of them are invalid."""
    text = text.str.strip()
    present = text != ""
    values = _parsed(text.where(present), field)
    bad = present & values.isna()
    if field.minimum is not None:
        bad |= values < field.minimum
    if field.maximum is not None:
        bad |= values > field.maximum
    if field.required:
        bad |= ~present
    return values, bad


def _parsed(text: pd.Series, field: Field) -> pd.Series:
    if field.kind == "time":
        return pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).astype("datetime64[us, UTC]")
    if field.kind == "float":
        return pd.to_numeric(text, errors="coerce").astype("float64")
    if field.name == "battery_id":
        return text.where(text.str.match(BATTERY_ID))
    if field.name in _CHOICES:
        upper = text.str.upper()
        return upper.where(upper.isin(_CHOICES[field.name]))
    return text


def _allowed(field: Field) -> str:
    if field.kind == "float":
        return f"it must be a number from {field.minimum:g} to {field.maximum:g}" + (
            f" {field.unit}" if field.unit else ""
        )
    if field.kind == "time":
        return "it must be a date or time such as 2021-05-01"
    if field.name in _CHOICES:
        return f"it must be one of {', '.join(_CHOICES[field.name])}"
    return "it must be 1 to 50 characters of A-Z a-z 0-9 _ . -"
