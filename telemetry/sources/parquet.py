"""Reads and checks Parquet files in contract columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from telemetry.contract import Field
from telemetry.errors import TwinError
from telemetry.sources.base import complete


def contract_table(
    path: Path, fields: tuple[Field, ...], required: tuple[str, ...], remedy: str, name: str | None = None
) -> pd.DataFrame:
    """The table in the Parquet file `path`; absent columns are left out.

    Args:
        required: columns that it must have.
        remedy: advice in the error message for an absent or damaged file.
        name: of the file in error messages; that of `path` if it is None.

    Raises:
        TwinError: the file is absent or damaged, or a column has the wrong type.
    """
    name = name or path.name
    if not path.is_file():
        raise TwinError(f"{path} does not exist; {remedy}", field="source.path", value=str(path))
    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise TwinError(
            f"{name} is not a readable Parquet file; {remedy}", field="source.path", value=str(path)
        ) from error
    absent = [column for column in required if column not in table]
    if absent:
        raise TwinError(f"{name} lacks the column {absent[0]}; {remedy}", field=absent[0], value=str(path))
    for field in fields:
        try:
            complete(table[[field.name]] if field.name in table else table[[]], (field,))
        except (ValueError, TypeError) as error:
            raise TwinError(
                f"{name}: column {field.name} is not of kind {field.kind}; {remedy}", field=field.name
            ) from error
    return table
