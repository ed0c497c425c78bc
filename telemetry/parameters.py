"""Validation of params.yaml and field maps by pydantic, with errors that name the entry, its value and the rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from telemetry.errors import TwinError, text_of

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
            raise first_error(error, cls, "params.yaml", cls.section) from error

    @classmethod
    def read(cls, path: Path = PARAMS_FILE) -> Self:
        """The section in the file `path`; the defaults without the file."""
        return cls.of(load_params(path) if path.is_file() else {})


def load_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """The content of a params.yaml as nested dictionaries."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def first_error(error: ValidationError, model: type[BaseModel], file: str, section: str | None = None) -> TwinError:
    """The first of pydantic's errors as one sentence: entry, value and what is allowed."""
    # A misspelt name is both unknown and missing: the unknown one says more.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    field = ".".join(part for part in (section, *map(str, first["loc"])) if part is not None)
    rule = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if first["type"] == "extra_forbidden":
        valid = ", ".join(entry.alias or name for name, entry in _model_at(model, first["loc"]).model_fields.items())
        sentence = f"{field} is not a parameter; valid are {valid}"
    elif first["type"] == "missing":
        sentence = f"{field} is missing; add it"
    elif isinstance(first["input"], Mapping):
        sentence = f"{field}: {rule}" if field else rule
    else:
        sentence = f"{field} is {text_of(first['input'])}: {rule}"
    return TwinError(f"{file}: {sentence}.", field=field or file, value=first["input"])


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that validates the entry at `path`; a key of a dictionary of models is no field."""
    for part in path:
        fields = [entry for name, entry in model.model_fields.items() if part in (name, entry.alias)]
        nested = [one for entry in fields for one in get_args(entry.annotation) if isinstance(one, type)]
        model = next((one for one in nested if issubclass(one, BaseModel)), model)
    return model
