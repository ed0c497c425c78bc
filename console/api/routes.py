"""The paths of the contract.  Each asks a few short questions of the store and puts the answers into form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import Response

from console.alerts.rules import reasons
from console.api import responses
from console.api.error_responses import ApiError, ErrorResponse
from console.connection_pool import StoreRow
from console.history import DEFAULT_POINTS, MAX_POINTS, READING_COLUMNS, HistoryQueries, Series, Window
from console.queries import Queries
from features.targets import TARGETS
from monitoring.latest_predictions import PREDICTION_VALID_FOR
from telemetry.contract import BATTERY_ID_PATTERN
from training.release import RUL_UNIT

MAX_HOURS = 24.0 * 366.0
MIN_POINTS = 10
_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "Beyond this machine: no session and no token"},
    429: {"model": ErrorResponse, "description": "Beyond this machine: too many wrong tokens from this address"},
    422: {"model": ErrorResponse, "description": "Bad input; `field` says which"},
    503: {"model": ErrorResponse, "description": "The telemetry store cannot answer"},
}
_ONE_BATTERY: dict[int | str, dict[str, Any]] = {
    **_RESPONSES,
    404: {"model": ErrorResponse, "description": "No such battery"},
    409: {"model": ErrorResponse, "description": "battery_id was left out, and several batteries exist"},
}
#: What a target is called on outside surfaces, and its unit there.
PUBLIC_TARGETS: dict[str, tuple[str, str]] = {
    "soh": ("soh", "%"),
    "temperature": ("temperature", "degC"),
    "rul": ("rul", RUL_UNIT),
    "failure": ("failure_probability", "probability"),
}
_NOT_YET = {
    "soh": "the pack does not report its state of health",
    "temperature": "no forecast was due at the newest reading",
    "rul": "known when the battery has reached its end of life",
    "failure": "known when its horizon has passed or the battery has failed",
}

BatteryId = Annotated[
    str | None,
    Query(pattern=BATTERY_ID_PATTERN, description="may be left out where one battery exists", examples=["EV-7"]),
]
Hours = Annotated[
    float,
    Query(
        gt=0,
        le=MAX_HOURS,
        allow_inf_nan=False,
        description="length of the window, which ends with the newest reading",
    ),
]
Points = Annotated[int, Query(ge=MIN_POINTS, le=MAX_POINTS, description="about how many points at most")]
#: What each parameter may be, for whoever gave something else.
EXPECTED: dict[str, str] = {
    "battery_id": "an id is 1 to 50 letters, digits and _ . - ; /api/batteries/list has those that exist",
    "hours": f"give the length of the window in hours, a number above 0 and up to {MAX_HOURS:.0f}",
    "points": f"give a whole number from {MIN_POINTS} to {MAX_POINTS}",
}


@dataclass(frozen=True)
class Api:
    """Answers requests; every method runs in a thread of its own."""

    queries: Queries
    histories: HistoryQueries

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/api")
        one, some = {"responses": _ONE_BATTERY}, {"responses": _RESPONSES}
        add: Any = router.add_api_route
        add("/battery/status", self.status, response_model=responses.BatteryStatus, tags=["battery"], **one)
        add("/battery/detailed", self.detailed, response_model=responses.DetailedStatus, tags=["battery"], **one)
        add("/battery/comparison", self.comparison, response_model=responses.ComparisonResponse, tags=["battery"], **one)
        add("/battery/history", self.history, response_model=responses.HistoryResponse, tags=["battery"], **one)
        add("/battery/latest", self.latest, response_model=responses.LatestRow, tags=["battery"], **one)
        add(
            "/battery/predictions",
            self.predictions,
            response_model=responses.PredictionsResponse,
            tags=["battery"],
            **one,
        )
        add("/battery/stats", self.stats, response_model=responses.StatsResponse, tags=["battery"], **one)
        add("/batteries/list", self.battery_list, response_model=responses.BatteryList, tags=["fleet"], **some)
        add("/alerts", self.alerts, response_model=responses.AlertsResponse, tags=["fleet"], **some)
        return router

    def status(self, battery_id: BatteryId = None) -> dict[str, Any]:
        """Newest reading and health of one battery, flat."""
        row = self._snapshot(battery_id)
        fields = responses.BatteryStatus.model_fields
        return {
            **{name: row[name] for name in fields if name in row},
            "reasons": [reason.sentence for reason in reasons(row)],
        }

    def detailed(self, battery_id: BatteryId = None) -> dict[str, Any]:
        """Newest reading and predictions of one battery, by where they come from."""
        row = self._snapshot(battery_id)
        return {
            "battery_id": row["battery_id"],
            "timestamp": row["time"],
            "battery": {
                "actual": {name: row[name] for name in responses.ActualReading.model_fields},
                "predicted": _predicted(row),
            },
            "vehicle": {name: row[name] for name in responses.Vehicle.model_fields},
            "health_status": row["status"],
        }

    def comparison(self, battery_id: BatteryId = None) -> dict[str, Any]:
        """Per target: what was predicted for now, what is true now, and the error, where the truth is known."""
        row = self._snapshot(battery_id)
        battery_id = row["battery_id"]
        newest = {
            p["target"]: p
            for p in self.queries.predictions(battery_id)
            if p["role"] == "champion" and (row["time"] is None or row["time"] - p["time"] < PREDICTION_VALID_FOR)
        }
        matured = {outcome["target"]: outcome for outcome in self.queries.outcomes(battery_id)}
        entries = []
        for target in TARGETS:
            made, actual = newest.get(target), None
            if target == "soh":
                actual = row["soh"]
            elif target == "temperature":
                made = self._forecast_for_now(battery_id, row["time"], made)
                actual = None if made is None else row["temperature"]
            elif target in matured:
                made, actual = matured[target], matured[target]["actual"]
            entries.append(_compared(target, made, actual))
        return {"battery_id": battery_id, "timestamp": row["time"], "comparison": entries}

    def history(self, battery_id: BatteryId = None, hours: Hours = 24.0, points: Points = DEFAULT_POINTS) -> Response:
        """Readings and predictions in time order, put together where there are more than `points`."""
        window = self._window(battery_id, hours, points)
        readings, predictions = self.histories.readings(window), self.histories.predictions(window)
        return _large(
            {
                "battery_id": window.battery_id,
                "since": window.since,
                "until": window.until,
                "downsampled": readings.interval_s is not None or predictions.interval_s is not None,
                "resolution": {"readings": _resolution(readings), "predictions": _resolution(predictions)},
                "readings": readings.rows,
                "predictions": predictions.rows,
            }
        )

    def latest(self, battery_id: BatteryId = None) -> StoreRow:
        """The row of `latest_battery_status`."""
        battery_id = self._battery_id(battery_id)
        row = self.queries.latest(battery_id)
        if row is None:
            raise _unknown(battery_id)
        return row

    def predictions(self, battery_id: BatteryId = None) -> dict[str, Any]:
        """The newest prediction of each target and role."""
        battery_id = self._known(battery_id)
        rows = self.queries.predictions(battery_id)
        return {
            "battery_id": battery_id,
            "prediction_timestamp": max((row["predicted_at"] for row in rows), default=None),
            "predictions": [_prediction(row) for row in rows],
        }

    def stats(self, battery_id: BatteryId = None, hours: Hours = 24.0) -> dict[str, Any]:
        """Counts, averages, minima and maxima over the window."""
        window = self._window(battery_id, hours, MAX_POINTS)
        is_sampled = self.histories.is_dense(window)
        figures = self.histories.sampled_stats(window) if is_sampled else self.histories.stats(window)
        return {
            "battery_id": window.battery_id,
            "since": window.since,
            "until": window.until,
            "sampled": is_sampled,
            "readings": figures["readings"],
            "first_time": figures["first_time"],
            "last_time": figures["last_time"],
            "statistics": {
                name: {measure: figures[f"{name}_{measure}"] for measure in ("avg", "min", "max")}
                for name in READING_COLUMNS
            },
        }

    def battery_list(self) -> dict[str, Any]:
        """Ids of the known batteries, and how many there are."""
        ids = self.queries.battery_ids()
        return {"batteries": ids, "count": len(ids)}

    def alerts(self) -> Response:
        """Batteries that deserve attention now, each with its reasons; the worst first."""
        found = [entry for row in self.queries.attention() if (entry := _alert(row)) is not None]
        found.sort(key=lambda entry: (entry["reasons"][0]["severity"] != "CRITICAL", entry["battery_id"]))
        return _large({"alerts": found, "count": len(found)})

    def _battery_id(self, battery_id: str | None) -> str:
        """`battery_id`, or the only one that exists."""
        if battery_id is not None:
            return battery_id
        ids = self.queries.battery_ids(limit=2)
        if not ids:
            raise ApiError(404, "no battery has sent anything yet", field="battery_id")
        if len(ids) > 1:
            count = self.queries.count_batteries()
            raise ApiError(409, f"there are {count} batteries: say which one by battery_id", field="battery_id")
        return ids[0]

    def _known(self, battery_id: str | None) -> str:
        battery_id = self._battery_id(battery_id)
        if not self.queries.is_known(battery_id):
            raise _unknown(battery_id)
        return battery_id

    def _snapshot(self, battery_id: str | None) -> StoreRow:
        battery_id = self._battery_id(battery_id)
        row = self.queries.snapshot(battery_id)
        if row is None:
            raise _unknown(battery_id)
        return row

    def _window(self, battery_id: str | None, hours: float, points: int) -> Window:
        battery_id = self._known(battery_id)
        until = self.queries.newest_time(battery_id) or self.queries.now()
        return Window(battery_id, until - timedelta(hours=hours), until, points)

    def _forecast_for_now(self, battery_id: str, time: datetime | None, newest: StoreRow | None) -> StoreRow | None:
        # The horizon is the release's; its newest forecast shows it.
        if time is None or newest is None or newest["due"] is None:
            return None
        return self.queries.forecast_for(battery_id, time, newest["due"] - newest["time"])


def _large(content: dict[str, Any]) -> Response:
    """`content` as it is: FastAPI would look at each of ten thousand values twice.  A test holds it to its model."""
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), media_type="application/json")


def _unknown(battery_id: str) -> ApiError:
    return ApiError(404, f"no battery is called {battery_id}", field="battery_id", value=battery_id)


def _interval(row: Mapping[str, Any], lower: str = "lower", upper: str = "upper") -> tuple[float, float] | None:
    return None if row[lower] is None or row[upper] is None else (row[lower], row[upper])


def _predicted(row: StoreRow) -> dict[str, Any]:
    columns = {
        "soh": "soh_predicted",
        "temperature": "temperature_predicted",
        "rul": "rul_prediction",
        "failure": "failure_probability",
    }
    return {
        PUBLIC_TARGETS[target][0]: {
            "value": row[column],
            "unit": PUBLIC_TARGETS[target][1],
            "interval": _interval(row, f"{target}_lower", f"{target}_upper"),
            "due": row["temperature_due"] if target == "temperature" else None,
        }
        for target, column in columns.items()
    }


def _compared(target: str, made: StoreRow | None, actual: float | None) -> dict[str, Any]:
    name, unit = PUBLIC_TARGETS[target]
    predicted = None if made is None else made["value"]
    model = made and made.get("model_name")
    return {
        "name": name,
        "actual": actual,
        "predicted": predicted,
        "error": None if predicted is None or actual is None else predicted - actual,
        "unit": unit,
        "interval": None if made is None else _interval({"lower": None, "upper": None, **made}),
        "model": f"{model}/{made['model_version']}" if made and model else None,
        "note": None if actual is not None else _NOT_YET[target],
    }


def _prediction(row: StoreRow) -> dict[str, Any]:
    kept = {name: row[name] for name in responses.Prediction.model_fields if name in row}
    return {**kept, "unit": PUBLIC_TARGETS.get(row["target"], ("", ""))[1], "interval": _interval(row)}


def _resolution(series: Series) -> dict[str, Any]:
    return {"method": series.method, "interval_s": series.interval_s}


def _alert(row: StoreRow) -> dict[str, Any] | None:
    found = reasons(row)
    if not found:
        return None
    return {
        **{name: row[name] for name in responses.BatteryAlert.model_fields if name != "reasons"},
        "reasons": [
            {
                "rule": reason.rule.name,
                "category": reason.rule.category,
                "severity": reason.severity,
                "value": reason.value,
                "threshold": reason.rule.threshold(reason.severity),
                "unit": reason.rule.unit,
                "reason": reason.sentence,
            }
            for reason in found
        ],
    }
