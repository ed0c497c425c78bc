"""Asks the prediction service for the reasons of a battery's predictions, with the battery's stored sessions.

The console has neither models nor battery states.  The sessions in `battery_cycles` are what training uses, and all
features of the explained targets come from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import orjson

from console.connection_pool import Database, StoreRow
from features.targets import TARGETS
from telemetry.contract import BATTERY_FIELDS, SIGNALS, names
from telemetry.errors import TwinError
from telemetry.row_order import separate_equal_ages
from telemetry.wire import json_values

_DATA_SHEET = tuple(field for field in BATTERY_FIELDS if field.name != "battery_id")


@dataclass(frozen=True)
class ReasonSource:
    """Reasons from the prediction service at `url`, for the batteries of the store."""

    database: Database
    url: str
    timeout_s: float = 15.0

    def of(self, battery_id: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """By explained target the reasons, see `serving.response.ReasonEntry`; none for a withheld prediction.

        Raises:
            StoreUnavailableError: the store is unavailable.
            TwinError: the service does not answer, or refuses the battery.
        """
        entry = {"battery_id": battery_id, "cycles": self._cycles(battery_id), "battery": self._data_sheet(battery_id)}
        body = orjson.dumps({"batteries": [entry], "reasons": True})
        try:
            response = httpx.post(
                f"{self.url}/predict", content=body, headers={"Content-Type": "application/json"},
                timeout=self.timeout_s, trust_env=False,
            )  # fmt: skip
            content = orjson.loads(response.content)
        except (httpx.HTTPError, ValueError) as error:
            raise TwinError(f"The prediction service at {self.url} does not answer: {type(error).__name__}.") from error
        if response.status_code != httpx.codes.OK:
            raise TwinError(f"The prediction service refused the battery: {content.get('error')}")
        (answer,) = content["predictions"]
        return {
            name: answer[target.shown.field].get("reasons", ()) for name, target in TARGETS.items() if target.explained
        }

    def _cycles(self, battery_id: str) -> list[dict[str, object]]:
        """The sessions since the battery was last replaced, in order of age; as `telemetry.stores.history.cycles`."""
        signals = ", ".join(SIGNALS)
        rows = self.database.fetch(
            f"""SELECT COALESCE(end_time > lag(end_time) OVER by_age, false) AS follows, cycle_index, {signals}
                FROM battery_cycles
                WHERE battery_id = %(id)s AND num_nonnulls({signals}) > 0
                  AND COALESCE(end_time > (SELECT max(time) FROM battery_events
                                           WHERE battery_id = %(id)s AND event = 'replaced'), true)
                WINDOW by_age AS (ORDER BY cycle_index, end_time NULLS FIRST)
                ORDER BY cycle_index, end_time NULLS FIRST""",  # noqa: S608 - constant names
            {"id": battery_id},
        )
        follows = np.array([row["follows"] for row in rows], dtype=np.bool_)
        ages = separate_equal_ages(np.array([row["cycle_index"] for row in rows], dtype=np.float64), follows)
        return [
            {"cycle_index": age, **{name: row[name] for name in SIGNALS if row[name] is not None}}
            for age, row in zip(ages.tolist(), rows, strict=True)
        ]

    def _data_sheet(self, battery_id: str) -> dict[str, object]:
        row: StoreRow | None = self.database.fetch_one(
            f"SELECT {', '.join(names(_DATA_SHEET))} FROM batteries WHERE battery_id = %(id)s",  # noqa: S608
            {"id": battery_id},
        )
        return {} if row is None else json_values(row, _DATA_SHEET)


def described(reasons: Sequence[Mapping[str, Any]]) -> str:
    """The reasons as one line: direction, signal, and the value of its strongest statistic."""
    return " · ".join(
        f"{'▲' if reason['contribution'] > 0.0 else '▼'} {reason['signal']} {_value(reason)}" for reason in reasons
    )


def _value(reason: Mapping[str, Any]) -> str:
    statistic = reason["feature"].removeprefix(reason["signal"]).removeprefix("__")
    value = "missing" if reason["value"] is None else f"{reason['value']:.3g}"
    return f"({statistic} {value})" if statistic else f"({value})"
