"""Kinds of implausible readings, which pass every range check, with the limits and the notes for each.

`features.step` detects them: a wrong unit, a wrong number of cells or a reversed current makes numbers that look right.
The voltage and current of such a reading are not used, so that it does not spoil the averages of its battery.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from telemetry.chemistries import CHEMISTRIES


@dataclass(frozen=True)
class Kind:
    """One kind of implausible reading.

    Attributes:
        name: its value in metric labels.
        note: what is wrong and what to check, for the sender; begins after a number of readings.
        withholds: whether predictions may be withheld while it lasts.
    """

    name: str
    note: str
    withholds: bool


CELL_VOLTAGE, CURRENT, RESISTANCE, THROUGHPUT, CYCLE_COUNT, RESET, CAPACITY = range(7)
KINDS: tuple[Kind, ...] = (
    Kind(
        "cell_voltage",
        "with a voltage per cell that its chemistry cannot have: check battery.cells_in_series, battery.chemistry and "
        "the unit of voltage; it was not used",
        True,
    ),
    Kind(
        "current",
        "with a current of more than 20 nominal capacities per hour: check the unit of current and "
        "battery.nominal_capacity_ah; it was not used",
        True,
    ),
    Kind(
        "resistance",
        "after a session in which the voltage rose with the discharging current: check the sign of current, which is "
        "positive while discharging; the session was not used",
        True,
    ),
    Kind(
        "throughput",
        "in a session of more than 1.5 nominal capacities: check battery.nominal_capacity_ah and the unit of current; "
        "the session is not used",
        True,
    ),
    Kind(
        "cycle_count",
        "with charge_cycles that the charge moved since cannot explain: not used until 10 readings confirm it",
        False,
    ),
    Kind(
        "reset",
        "with charge_cycles that have fallen for good: enter the event `replaced` or `bms_reset` for the battery; "
        "until then its age is counted from the charge moved",
        False,
    ),
    Kind(
        "capacity",
        "after 5 slow charges in a row with over 8 % more capacity than those before: enter the event `replaced` if "
        "the battery was replaced; until then its history is that of both packs",
        False,
    ),
)
N_KINDS = len(KINDS)
KIND_NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)
#: Bits of the newest reading: predictions by cycle are withheld; those by reading, too.
WITHHOLD_BY_CYCLE, WITHHOLD_BY_READING = 1 << N_KINDS, 2 << N_KINDS

#: Cell voltages outside of these shares of the chemistry's limits are errors: real cells are damaged before.
LOWEST_VOLTAGE_SHARE, HIGHEST_VOLTAGE_SHARE = 0.7, 1.2
CELL_VOLTAGE_LIMITS_V = np.array(
    [(c.voltage_min_v * LOWEST_VOLTAGE_SHARE, c.voltage_max_v * HIGHEST_VOLTAGE_SHARE) for c in CHEMISTRIES.values()]
)
#: Largest plausible current, in nominal capacities per hour; racing and hybrid cells reach about 15.
MAX_C_RATE = 20.0
#: Largest plausible throughput of one session, in nominal capacities.
MAX_SESSION_CAPACITIES = 1.5
#: A reported count of cycles may exceed the age by this much, plus so much for each hour since the last one.
AGE_SLACK_CYCLES, AGE_SLACK_CYCLES_PER_HOUR = 2.0, 2.0
#: A reported count of cycles has fallen if it is below this share of the age, and by more than this many cycles.
AGE_FALL_SHARE, AGE_FALL_CYCLES = 0.9, 5.0
#: An unexpected count is confirmed by so many readings over this time.
AGE_CONFIRMED_BY, AGE_CONFIRMED_AFTER_S = 10.0, 300.0
#: A charge shows a jump of capacity if the charge in this voltage window exceeds the mean of those before by this
#: factor.  Faster charges (in nominal capacities per hour) do not count: their window is narrower than it seems.
CAPACITY_SIGNAL, CAPACITY_JUMP, CAPACITY_MAX_C_RATE = "charge_window_4_ah", 1.08, 0.4
#: The mean is used from so many charges on, is over about so many, and so many in a row confirm the jump.
CAPACITY_KNOWN_AFTER, CAPACITY_MEAN_OVER, CAPACITY_CONFIRMED_BY = 5.0, 10.0, 5.0


def kinds_of(flags: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[n, N_KINDS], 1 for each kind among the bits of n readings, `flags`, int64[n]."""
    return flags[:, None] >> np.arange(N_KINDS) & 1


def count_by_kind(flags: NDArray[np.int64]) -> Counter[str]:
    """Number of readings of each kind, by its name; `flags`, int64[n], are the bits of n readings."""
    if not flags.any():
        return Counter()
    return Counter(dict(zip(KIND_NAMES, kinds_of(flags).sum(axis=0).tolist(), strict=True)))


def note(kind: int, readings: int) -> str:
    """Note on `readings` (at least 1) readings of a kind, an index of `KINDS`."""
    return f"{readings} {'reading' if readings == 1 else 'readings'} {KINDS[kind].note}"


def withheld(flags: int) -> str:
    """Reason for withholding predictions; `flags` are the bits of a state that has kinds which withhold."""
    found = [kind.name for bit, kind in enumerate(KINDS) if kind.withholds and flags >> bit & 1]
    return f"the readings are implausible ({', '.join(found)}), see the notes"
