"""Sets the properties of a battery in its state from a row of the table `batteries`, whose values are not trusted."""

from __future__ import annotations

from typing import cast

from features.state import FloatArray, set_battery
from telemetry.batch import Row
from telemetry.chemistries import CHEMISTRY_NAMES, PARAMETER_SETS
from telemetry.contract import BATTERY_FIELDS

_NUMBERS = {
    field.name: field
    for field in BATTERY_FIELDS
    if field.name in ("nominal_capacity_ah", "nominal_voltage", "cells_in_series")
}


def set_battery_from_row(state: FloatArray, battery: Row | None) -> list[str]:
    """Set the battery's capacity, cells, chemistry and cell parameters in `state`, in place.

    Without a row the state stays as it is.

    A value outside of the contract counts as missing, because a stream cannot reject a battery.

    Returns:
        Names of the columns whose value is outside of the contract.
    """
    if battery is None:
        return []
    chemistry = str(battery.get("chemistry") or "").upper()
    parameters = str(battery.get("cell_parameters") or "").upper()
    numbers = {name: cast(float | None, battery.get(name)) for name in _NUMBERS}
    invalid = [name for name, value in numbers.items() if not _NUMBERS[name].allows(value)]
    if chemistry and chemistry not in CHEMISTRY_NAMES:
        invalid.append("chemistry")
    if parameters and parameters not in PARAMETER_SETS:
        invalid.append("cell_parameters")
    set_battery(
        state,
        chemistry=chemistry if chemistry in CHEMISTRY_NAMES else None,
        cell_parameters=parameters if parameters in PARAMETER_SETS else None,
        **{name: None if name in invalid else value for name, value in numbers.items()},
    )
    return invalid
