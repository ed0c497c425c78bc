"""Registry of the telemetry sources, and `read_source`, which reads any of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from telemetry.errors import TwinError
from telemetry.field_map import load_field_map
from telemetry.sources import csv, ev_faults, matr, nasa_pcoe, simulated_fleet, timescale
from telemetry.sources.base import Source, Telemetry
from telemetry.sources.batteries import fill_defaults, merge_batteries, read_batteries

SOURCES: dict[str, Source] = {
    entry.name: entry
    for entry in (
        simulated_fleet.SOURCE,
        matr.SOURCE,
        nasa_pcoe.SOURCE,
        ev_faults.SOURCE,
        csv.SOURCE,
        csv.EVIOT,
        timescale.SOURCE,
    )
}

__all__ = ["SOURCES", "Source", "Telemetry", "read_source", "source"]


def source(name: str) -> Source:
    """The source of that name.

    Raises:
        TwinError: there is none; the message lists the known names.
    """
    if name not in SOURCES:
        raise TwinError(f"there is no source {name!r}; known are {', '.join(SOURCES)}", field="source.name", value=name)
    return SOURCES[name]


def read_source(
    name: str,
    path: str | Path,
    *,
    field_map: str | Path | None = None,
    batteries: str | Path | None = None,
    defaults: Mapping[str, float | str | None] | None = None,
) -> Telemetry:
    """Read a source's files into contract columns.

    Args:
        name: an entry of SOURCES.
        path: the folder or file that the user names.
        field_map: path of a YAML file or the name of a shipped one; None for the source's default.
        batteries: CSV with the nominal data of the batteries; it takes precedence over that of the source.
        defaults: nominal data of batteries without it; None values leave the source's default.

    Raises:
        TwinError: the files as a whole cannot be read; an invalid row is in `rejected` instead.
    """
    entry = source(name)
    chosen = field_map or entry.field_map
    telemetry = entry.read(Path(path), load_field_map(chosen) if chosen else None)
    if batteries is not None:
        telemetry = merge_batteries(telemetry, read_batteries(Path(batteries)))
    set_defaults = {key: value for key, value in (defaults or {}).items() if value is not None}
    return fill_defaults(telemetry, {**entry.battery_defaults, **set_defaults})
