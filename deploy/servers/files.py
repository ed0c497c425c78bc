"""Settings files that compose mounts as they are and that one machine needs with its own ports and folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from telemetry.errors import TwinError


def with_lines(file: Path, replacements: Mapping[str, str]) -> str:
    """The text of `file` with whole lines replaced.

    Raises:
        TwinError: a line to be replaced is not in it, so that the two uses of the file have come apart.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    if missing := [line for line in replacements if line not in lines]:
        raise TwinError(f"{file} has no line '{missing[0]}'; change deploy/servers with it.", field=str(file))
    return "\n".join(replacements.get(line, line) for line in lines) + "\n"


def with_properties(file: Path, properties: Mapping[str, str]) -> str:
    """The text of a Java properties file with `properties` after it: of two lines with one key the last counts."""
    added = "".join(f"{key}={value}\n" for key, value in properties.items())
    return file.read_text(encoding="utf-8").rstrip("\n") + "\n" + added
