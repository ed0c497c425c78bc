"""Events of batteries for the console: the list of those entered, the one that is missing, and entering one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from console.connection_pool import Database, StoreRow
from features.plausibility import (
    AGE_FALL_CYCLES,
    AGE_FALL_SHARE,
    CAPACITY_CONFIRMED_BY,
    CAPACITY_JUMP,
    CAPACITY_KNOWN_AFTER,
    CAPACITY_MAX_C_RATE,
    CAPACITY_MEAN_OVER,
    CAPACITY_SIGNAL,
)
from telemetry.contract import BATTERY_EVENT_FIELDS, EARLIEST, BatteryEventKind
from telemetry.errors import TwinError, text_of
from telemetry.stores.newest import newest_reading, newest_rows

#: Newest events that the page and the API list.
LISTED_EVENTS = 20
EVENT_KINDS: tuple[BatteryEventKind, ...] = get_args(BatteryEventKind)
_VALUE = next(field for field in BATTERY_EVENT_FIELDS if field.name == "value")
#: Charges that are searched for a jump of capacity.
_CHARGES = 200


class EventExistsError(TwinError):
    """Raised for an event that was entered before."""


@dataclass(frozen=True)
class BatteryEvents:
    """The table `battery_events`, read by `reads` and written by `writes`."""

    reads: Database
    writes: Database

    def listed(self, battery_id: str) -> list[StoreRow]:
        """The newest events of the battery, newest first."""
        return self.reads.fetch(
            """SELECT time, event, value, source, entered_at FROM battery_events
               WHERE battery_id = %(id)s ORDER BY time DESC, event LIMIT %(n)s""",
            {"id": battery_id, "n": LISTED_EVENTS},
        )

    def missing(self, battery_id: str) -> str | None:
        """What to enter if the count of cycles has fallen or the capacity has jumped without an event.

        As the kinds `reset` and `capacity` of `features.plausibility`.
        """
        if (reset := self._reset(battery_id)) is not None:
            return (
                f"charge_cycles is {reset['charge_cycles']:.0f} and the age {reset['cycle_index']:.0f}: enter the "
                "event `replaced` or `bms_reset`"
            )
        if (jump := self._jump(battery_id)) is not None:
            return (
                f"slow charges show {100.0 * (jump['ratio'] - 1.0):.0f} % more capacity since "
                f"{jump['end_time']:%Y-%m-%d}: enter the event `replaced` if the battery was replaced"
            )
        return None

    def enter(self, battery_id: str, time: datetime, kind: BatteryEventKind, value: float | None, by: str) -> None:
        """Enter an event; `value` is the measured capacity of a capacity test, Ah.

        Raises:
            EventExistsError: the battery has an event of this kind at this time.
            TwinError: the battery is unknown, the time is not between 1970 and the limit of the store's clock, or the
                value is missing or of no use.
        """
        known = self.reads.fetch_one(
            "SELECT twin_time_limit() AS latest, EXISTS (SELECT FROM batteries WHERE battery_id = %(id)s) AS is_known",
            {"id": battery_id},
        )
        assert known is not None  # noqa: S101 - a query without FROM has one row
        if not known["is_known"]:
            raise TwinError(
                f"battery_id is {text_of(battery_id)}: there is no such battery, see /api/batteries/list",
                field="battery_id",
                value=battery_id,
            )
        if not EARLIEST <= time <= known["latest"]:
            raise TwinError(
                f"time is {time.isoformat()}: an event lies between 1970 and now, {known['latest']:%Y-%m-%d %H:%M} UTC",
                field="time",
                value=time.isoformat(),
            )
        is_given = value is not None and value == value
        if (kind == "capacity_test") != is_given or not _VALUE.allows(value):
            raise TwinError(
                f"value is {text_of(value)}: a capacity_test has the measured capacity as its value, "
                f"{_VALUE.minimum:g} to {_VALUE.maximum:g} Ah, and an event of another kind has none",
                field="value",
                value=value,
            )
        with self.writes.transaction() as cursor:
            cursor.execute(
                "INSERT INTO battery_events (battery_id, time, event, value, source) "
                "VALUES (%(id)s, %(time)s, %(kind)s, %(value)s, %(by)s) ON CONFLICT DO NOTHING",
                {"id": battery_id, "time": time, "kind": kind, "value": value if is_given else None, "by": by},
            )
            if not cursor.rowcount:
                raise EventExistsError(
                    f"time is {time.isoformat()}: the event {kind} of {battery_id} at this time was entered before",
                    field="time",
                    value=time.isoformat(),
                )

    def _reset(self, battery_id: str) -> StoreRow | None:
        """The newest `charge_cycles` and age, if the count has fallen below the age and no event explains it."""
        reading = newest_reading(columns="charge_cycles", battery="%(id)s")
        prediction = newest_rows("battery_predictions", "n.role = 'champion'", columns="cycle_index", battery="%(id)s")
        return self.reads.fetch_one(
            f"SELECT r.charge_cycles, p.cycle_index FROM {reading} r CROSS JOIN {prediction} p "  # noqa: S608
            "WHERE r.charge_cycles < p.cycle_index * %(share)s AND r.charge_cycles < p.cycle_index - %(cycles)s "
            "AND NOT EXISTS (SELECT FROM battery_events WHERE battery_id = %(id)s AND event = 'bms_reset')",
            {"id": battery_id, "share": AGE_FALL_SHARE, "cycles": AGE_FALL_CYCLES},
        )

    def _jump(self, battery_id: str) -> StoreRow | None:
        """`end_time` of the first charge after the largest jump and its `ratio`, if no event explains it."""
        return self.reads.fetch_one(
            _JUMP,
            {
                "id": battery_id,
                "charges": _CHARGES,
                "slow": CAPACITY_MAX_C_RATE,
                "least": CAPACITY_KNOWN_AFTER,
                "confirmed": CAPACITY_CONFIRMED_BY,
                "jump": CAPACITY_JUMP,
            },
        )


_JUMP = f"""
    SELECT end_time, lowest / before AS ratio FROM (
        SELECT end_time, avg(charged) OVER former AS before,
               count(*) OVER former AS n_before, min(charged) OVER latter AS lowest, count(*) OVER latter AS n_after
        FROM (
            SELECT c.end_time, c.cycle_index, c.{CAPACITY_SIGNAL} AS charged
            FROM battery_cycles c JOIN batteries b USING (battery_id)
            WHERE battery_id = %(id)s AND abs(c.{CAPACITY_SIGNAL}) < 'Infinity'
              AND c.charge_current_mean_a <= %(slow)s * b.nominal_capacity_ah
              AND c.end_time > COALESCE((SELECT max(time) FROM battery_events
                                         WHERE battery_id = %(id)s AND event = 'replaced'), '-infinity')
            ORDER BY cycle_index DESC LIMIT %(charges)s
        ) charges
        WINDOW age AS (ORDER BY cycle_index),
               former AS (age ROWS BETWEEN {CAPACITY_MEAN_OVER:.0f} PRECEDING AND 1 PRECEDING),
               latter AS (age ROWS BETWEEN CURRENT ROW AND {CAPACITY_CONFIRMED_BY - 1:.0f} FOLLOWING)
    ) jumps
    WHERE n_before >= %(least)s AND n_after >= %(confirmed)s AND lowest > %(jump)s * before
    ORDER BY ratio DESC LIMIT 1
"""  # noqa: S608 - constant names
