"""Data contract: names, types, units and ranges of the fields of readings, cycles and batteries.

The Great Expectations suite, the request and message schemas and the SQL columns are derived from the three tables
below (see `telemetry/schemas/`), so name, unit and range of a field are defined once.  Current is positive while
discharging, everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Literal

FieldKind = Literal["text", "time", "float", "bool"]

BATTERY_ID_PATTERN = r"^[A-Za-z0-9_.-]{1,50}$"
BATTERY_ID = re.compile(BATTERY_ID_PATTERN)

#: Every time of the contract is at or after the first and before the second: times outside are errors of a clock, and
#: some libraries cannot represent them.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Field:
    """One column of a contract table.

    `minimum` and `maximum` are inclusive and in `unit`.  `scale` is how the state update normalizes the value to make
    it comparable between batteries: by the nominal capacity (A becomes a C-rate, Ah a fraction of the capacity) or by
    the resistance that corresponds to the nominal capacity.
    """

    name: str
    unit: str = ""
    description: str = ""
    kind: FieldKind = "float"
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    scale: Literal["none", "capacity", "resistance"] = "none"

    def allows(self, value: float | None) -> bool:
        """Whether a number is in range; a missing one (None, NaN) is."""
        if value is None or value != value:
            return True
        low = self.minimum is None or value >= self.minimum
        return low and (self.maximum is None or value <= self.maximum) and abs(value) != inf


READING_FIELDS: tuple[Field, ...] = (
    Field("battery_id", "", "one pack or cell", "text", True),
    Field("time", "UTC", "event time, set by the battery", "time", True),
    Field("voltage", "V", "terminal voltage of the pack", required=True, minimum=0.0, maximum=2000.0),
    Field("current", "A", "positive while discharging", required=True, minimum=-5000.0, maximum=5000.0),
    Field("temperature", "degC", "hottest probe", required=True, minimum=-50.0, maximum=150.0),
    Field("soc", "%", "state of charge", minimum=0.0, maximum=100.0),
    Field("soh", "%", "state of health, measured or simulated", minimum=0.0, maximum=120.0),
    Field("ambient_temperature", "degC", "", minimum=-60.0, maximum=80.0),
    Field("charge_cycles", "equivalent full cycles", "", minimum=0.0, maximum=1e6),
    Field("power_consumption", "W", "positive while discharging", minimum=-1e7, maximum=1e7),
    Field("is_charging", "", "connected to a charger", "bool"),
    Field("temperature_min", "degC", "coldest probe", minimum=-50.0, maximum=150.0),
    Field("cell_voltage_min", "V", "", minimum=0.0, maximum=10.0),
    Field("cell_voltage_max", "V", "", minimum=0.0, maximum=10.0),
    Field("cell_voltage_median", "V", "", minimum=0.0, maximum=10.0),
    Field("insulation_resistance", "kOhm", "", minimum=0.0, maximum=1e6),
    Field("odometer_km", "km", "", minimum=0.0, maximum=1e7),
    Field("speed_kmh", "km/h", "", minimum=0.0, maximum=500.0),
    Field("warning_level", "", "alarm level of the pack: 0 none to 3 severe", minimum=0.0, maximum=10.0),
)

# Statistics of one cycle: the features of the health and life models.  Voltages are those of one cell
# (pack voltage / cells in series).  The throughput of a whole session is deliberately not among them: after a full
# discharge it *is* the measured capacity.
SIGNAL_FIELDS: tuple[Field, ...] = (
    Field("cc_charge_ah", "Ah", "charge taken at the end of the constant-current phase", scale="capacity"),
    Field("cc_charge_time_s", "s", "duration of the end of the constant-current phase"),
    Field("cc_voltage_mean_v", "V"),
    Field("cc_voltage_std_v", "V"),
    Field("cc_voltage_kurtosis"),
    Field("cc_voltage_skewness"),
    Field("cc_voltage_slope", "V a sample"),
    Field("cc_voltage_entropy", "nat"),
    Field("cv_charge_ah", "Ah", "charge taken in the constant-voltage phase", scale="capacity"),
    Field("cv_charge_time_s", "s", "duration of the constant-voltage phase"),
    Field("cv_current_mean_a", "A", scale="capacity"),
    Field("cv_current_std_a", "A", scale="capacity"),
    Field("cv_current_kurtosis"),
    Field("cv_current_skewness"),
    Field("cv_current_slope", "A a sample", scale="capacity"),
    Field("cv_current_entropy", "nat"),
    Field("charge_window_1_ah", "Ah", "charged inside the first voltage window of the chemistry", scale="capacity"),
    Field("charge_window_2_ah", "Ah", "charged inside the second voltage window", scale="capacity"),
    Field("charge_window_3_ah", "Ah", "charged inside the third voltage window", scale="capacity"),
    Field("charge_window_4_ah", "Ah", "charged inside the fourth voltage window", scale="capacity"),
    Field("discharge_window_1_ah", "Ah", "discharged inside the first voltage window", scale="capacity"),
    Field("discharge_window_2_ah", "Ah", "discharged inside the second voltage window", scale="capacity"),
    Field("discharge_window_3_ah", "Ah", "discharged inside the third voltage window", scale="capacity"),
    Field("discharge_window_4_ah", "Ah", "discharged inside the fourth voltage window", scale="capacity"),
    Field("charge_voltage_mean_v", "V", "time-weighted, while charging"),
    Field("discharge_voltage_mean_v", "V", "time-weighted, while discharging"),
    Field("charge_current_mean_a", "A", "magnitude, while charging", scale="capacity"),
    Field("discharge_current_mean_a", "A", "magnitude, while discharging", scale="capacity"),
    Field("resistance_ohm", "Ohm", "of one cell, regression of voltage on current", scale="resistance"),
    Field("cell_voltage_spread_v", "V", "highest minus lowest cell, mean"),
    Field("temperature_mean_c", "degC", "hottest probe, time-weighted"),
    Field("temperature_rise_c", "degC", "hottest probe, last minus first of the session"),
    Field("cell_capacity_factor", "", "capacity over the nominal one, estimated by the filter of the cell model"),
    Field("cell_resistance_factor", "", "resistance over that of a new cell in the same condition, estimated likewise"),
    Field("model_residual_mean_v", "V", "measured less predicted voltage of a cell, mean of about an hour"),
    Field("model_residual_rms_v", "V", "the same, root mean square"),
)

CYCLE_FIELDS: tuple[Field, ...] = (
    Field("battery_id", "", "one pack or cell", "text", True),
    Field(
        "cycle_index", "equivalent full cycles", "age at the end of the cycle", required=True, minimum=0.0, maximum=1e6
    ),
    Field("kind", "", "charge, discharge or cycle (both, as laboratories report it)", "text"),
    Field("start_time", "UTC", "", "time"),
    Field("end_time", "UTC", "", "time"),
    Field("throughput_ah", "Ah", "charge moved in the session", minimum=0.0),
    Field("capacity_ah", "Ah", "a label, never a feature", minimum=0.0),
    Field("capacity_method", "", "measured, partial_charge or manufacturer", "text"),
    Field("soh", "%", "a label, never a feature", minimum=0.0, maximum=120.0),
    Field("warning_level", "", "highest alarm during the cycle, a label", minimum=0.0, maximum=10.0),
    *SIGNAL_FIELDS,
)

BATTERY_FIELDS: tuple[Field, ...] = (
    Field("battery_id", "", "one pack or cell", "text", True),
    Field("nominal_capacity_ah", "Ah", "", minimum=1e-3, maximum=1e5),
    Field("nominal_voltage", "V", "", minimum=0.1, maximum=2000.0),
    Field("chemistry", "", "an entry of telemetry.chemistries, e.g. NMC", "text"),
    Field("cells_in_series", "", "", minimum=1.0, maximum=1000.0),
    Field("cells_in_parallel", "", "", minimum=1.0, maximum=10000.0),
    Field("model", "", "", "text"),
    Field("in_service_since", "UTC", "", "time"),
    Field("fleet", "", "", "text"),
    Field("cell_parameters", "", "identified parameters of its cells, an entry of physics/parameters", "text"),
)


BatteryEventKind = Literal["replaced", "bms_reset", "capacity_test", "failed"]
#: Warning level of the event `failed`, a label.
FAILED_WARNING_LEVEL = 3.0
BATTERY_EVENT_FIELDS: tuple[Field, ...] = (
    Field("battery_id", "", "one pack or cell", "text", True),
    Field("time", "UTC", "when it happened; may be entered later", "time", True),
    Field("event", "", "replaced, bms_reset, capacity_test or failed", "text", True),
    Field("value", "Ah", "measured capacity of a capacity_test", minimum=1e-3, maximum=1e5),
    Field("source", "", "who or what entered it", "text"),
)


def names(fields: Iterable[Field]) -> list[str]:
    """Names of `fields`, in their order."""
    return [field.name for field in fields]


SIGNALS: tuple[str, ...] = tuple(names(SIGNAL_FIELDS))
READING_REQUIRED: tuple[str, ...] = tuple(f.name for f in READING_FIELDS if f.required)
CYCLE_REQUIRED: tuple[str, ...] = tuple(f.name for f in CYCLE_FIELDS if f.required)
