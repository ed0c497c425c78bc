"""Adapt the configuration files of compose to the ports and folders of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from telemetry.errors import TwinError


def replace_lines(file: Path, replacements: Mapping[str, str]) -> str:
    """The text of `file` with whole lines replaced.

    Raises:
        TwinError: the file does not contain a line that is to be replaced.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    if missing := [line for line in replacements if line not in lines]:
        raise TwinError(f"{file} has no line '{missing[0]}'; update deploy/servers to match it.", field=str(file))
    return "\n".join(replacements.get(line, line) for line in lines) + "\n"


def append_properties(file: Path, properties: Mapping[str, str]) -> str:
    """The text of a Java properties file followed by `properties`; the last line of a key takes effect."""
    added = "".join(f"{key}={value}\n" for key, value in properties.items())
    return file.read_text(encoding="utf-8").rstrip("\n") + "\n" + added
