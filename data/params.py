"""A section of `params.yaml` as the dataclass that describes it."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from data.errors import TwinError

T = TypeVar("T")


def typed(cls: type[T], section: dict[str, Any], name: str) -> T:
    """`section` of params.yaml as the dataclass `cls`; lists become tuples.

    Raises:
        TwinError: for a parameter that `cls` does not know or that is missing.
    """
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in section:
        if key not in known:
            raise TwinError(
                f"params.yaml: {name}.{key} is not a parameter; known are {', '.join(sorted(known))}",
                field=f"{name}.{key}",
                value=section[key],
            )
    try:
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in section.items()})
    except TypeError as error:
        raise TwinError(f"params.yaml: section {name} is incomplete: {error}", field=name) from error
