"""Builds the Great Expectations suite of each contract table.

Great Expectations is imported at the first use of a suite: the import takes seconds, and only `validate` needs it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from telemetry.chemistries import CHEMISTRY_NAMES
from telemetry.contract import (
    BATTERY_FIELDS,
    BATTERY_ID_PATTERN,
    CYCLE_FIELDS,
    EARLIEST,
    LATEST,
    READING_FIELDS,
    Field,
)
from telemetry.settings import USAGE_STATISTICS_OFF

TABLES: dict[str, tuple[Field, ...]] = {
    "readings": READING_FIELDS,
    "cycles": CYCLE_FIELDS,
    "batteries": BATTERY_FIELDS,
}

#: Columns that `validate` adds for rules on more than one row, see telemetry/row_order.py.
DUPLICATE = "duplicate_of_an_earlier_row"
OUT_OF_ORDER = "out_of_order"

_TYPES = {"float": "float64", "bool": "float64", "text": "str", "time": "Timestamp"}


def great_expectations() -> Any:
    """The module, imported with its usage statistics switched off."""
    os.environ.update({name: value for name, value in USAGE_STATISTICS_OFF.items() if name.startswith("GX_")})
    with warnings.catch_warnings():
        # It imports deprecated modules of the standard library.
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
        import great_expectations.expectations
    # The second one, which names the temporary folder of each context, has a level of its own.
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return gx


def suite(table: str) -> Any:
    """The `ExpectationSuite` of readings, cycles or batteries.

    `meta` of each expectation holds "rule" (a readable name, unique in the suite), "field", "reason" (why a row that
    fails it is quarantined; None for rules about the table as a whole) and "clears" (the row is kept, and the value
    counts as missing: it is optional and out of its range).
    """
    gx = great_expectations()
    expectations = gx.ExpectationSuite(name=table)
    for field in TABLES[table]:
        for expectation in _field_rules(gx.expectations, field):
            expectations.add_expectation(expectation)
    if table != "batteries":
        for expectation in _order_rules(gx.expectations, "time" if table == "readings" else "cycle_index"):
            expectations.add_expectation(expectation)
    return expectations


def _field_rules(gxe: Any, field: Field) -> Iterator[Any]:
    name = field.name
    yield gxe.ExpectColumnToExist(column=name, meta=_meta(f"{name} exists", name, None))
    kind = _TYPES[field.kind]
    yield gxe.ExpectColumnValuesToBeOfType(column=name, type_=kind, meta=_meta(f"{name} is of type {kind}", name, None))
    if field.required:
        yield gxe.ExpectColumnValuesToNotBeNull(
            column=name, meta=_meta(f"{name} is present", name, "missing, but required")
        )
    if name == "battery_id":
        yield gxe.ExpectColumnValuesToMatchRegex(
            column=name,
            regex=BATTERY_ID_PATTERN,
            meta=_meta(f"{name} is well-formed", name, "not 1 to 50 characters of A-Z a-z 0-9 _ . -"),
        )
    if name == "chemistry":
        yield gxe.ExpectColumnValuesToBeInSet(
            column=name,
            value_set=list(CHEMISTRY_NAMES),
            meta=_meta(f"{name} is supported", name, "not an entry of telemetry/chemistries.py"),
        )
    if field.kind == "bool":
        yield gxe.ExpectColumnValuesToBeInSet(
            column=name, value_set=[0.0, 1.0], meta=_meta(f"{name} is true or false", name, "neither true nor false")
        )
    if field.kind == "time":
        years = f"from {EARLIEST.year} to before {LATEST.year}"
        yield gxe.ExpectColumnValuesToBeBetween(
            column=name,
            min_value=EARLIEST,
            max_value=LATEST,
            meta=_meta(f"{name} is {years}", name, f"not {years}", clears=not field.required),
        )
    if field.minimum is not None or field.maximum is not None:
        bounds = _bounds(field)
        yield gxe.ExpectColumnValuesToBeBetween(
            column=name,
            min_value=field.minimum,
            max_value=field.maximum,
            meta=_meta(f"{name} is {bounds}", name, f"not {bounds}", clears=not field.required),
        )


def _order_rules(gxe: Any, order: str) -> Iterator[Any]:
    yield gxe.ExpectColumnValuesToBeInSet(
        column=DUPLICATE,
        value_set=[0.0],
        meta=_meta(f"{order} is unique within its battery", order, "duplicate of an earlier row of its battery"),
    )
    yield gxe.ExpectColumnValuesToBeInSet(
        column=OUT_OF_ORDER, value_set=[0.0], meta=_meta(f"{order} increases", order, "out of order within its battery")
    )


def _meta(rule: str, field: str, reason: str | None, *, clears: bool = False) -> dict[str, str | bool | None]:
    return {"rule": rule, "field": field, "reason": reason, "clears": clears}


def _bounds(field: Field) -> str:
    unit = f" {field.unit}" if field.unit else ""
    if field.minimum is None:
        return f"at most {field.maximum:g}{unit}"
    if field.maximum is None:
        return f"at least {field.minimum:g}{unit}"
    return f"from {field.minimum:g} to {field.maximum:g}{unit}"
