"""Pydantic base class of the sections of params.yaml, with errors that name the parameter, its value and the rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from telemetry.errors import TwinError

PARAMS_FILE = Path("params.yaml")


class Parameters(BaseModel):
    """A section of params.yaml: immutable, and without unknown parameters.

    Attributes:
        section: name of the section.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    section: ClassVar[str]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """The section in the content of a params.yaml; the defaults where it is absent.

        Raises:
            TwinError: for the first parameter that is unknown, missing or out of range.
        """
        try:
            return cls.model_validate(params.get(cls.section, {}))
        except ValidationError as error:
            raise _as_twin_error(cls, error) from error

    @classmethod
    def read(cls, path: Path = PARAMS_FILE) -> Self:
        """The section in the file `path`; the defaults without the file."""
        return cls.of(load_params(path) if path.is_file() else {})


def load_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """The content of a params.yaml as nested dictionaries."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def _as_twin_error(section: type[Parameters], error: ValidationError) -> TwinError:
    # A misspelt name is both unknown and missing: the unknown one says more.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    name = ".".join([section.section, *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        sentence = f"{name} is not a parameter; valid are {', '.join(sorted(section.model_fields))}"
    elif first["type"] == "missing":
        sentence = f"{name} is missing; add it"
    else:
        rule = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        sentence = f"{name} is {first['input']!r}: {rule}"
    return TwinError(f"params.yaml: {sentence}.", field=name, value=first["input"])
