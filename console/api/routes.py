"""REST routes for status, history, predictions, statistics and alerts of batteries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import Response

from console.alerts.rules import triggered_rules
from console.api import responses
from console.api.error_responses import ApiError, ErrorResponse
from console.connection_pool import StoreRow
from console.events import BatteryEvents
from console.history import DEFAULT_POINTS, MAX_POINTS, READING_COLUMNS, HistoryQueries, HistorySeries, HistoryWindow
from console.queries import Queries
from features.targets import TARGETS, Target
from monitoring.latest_predictions import PREDICTION_VALID_FOR
from telemetry.contract import BATTERY_ID_PATTERN

MAX_HOURS = 24.0 * 366.0
MIN_POINTS = 10
READ_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "Not on loopback: neither login session nor token"},
    429: {"model": ErrorResponse, "description": "Not on loopback: too many wrong tokens from this address"},
    422: {"model": ErrorResponse, "description": "Invalid input; `field` names the parameter"},
    503: {"model": ErrorResponse, "description": "Telemetry store unavailable"},
}
_ONE_BATTERY: dict[int | str, dict[str, Any]] = {
    **READ_RESPONSES,
    404: {"model": ErrorResponse, "description": "Unknown battery"},
    409: {"model": ErrorResponse, "description": "battery_id is missing and several batteries exist"},
}

BatteryId = Annotated[
    str | None,
    Query(pattern=BATTERY_ID_PATTERN, description="optional if only one battery exists", examples=["EV-7"]),
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
Points = Annotated[int, Query(ge=MIN_POINTS, le=MAX_POINTS, description="approximate maximum number of points")]
#: Valid values of each parameter, for error messages.
EXPECTED: dict[str, str] = {
    "battery_id": "an id has 1 to 50 letters, digits and _ . - ; see /api/batteries/list",
    "hours": f"give the length of the window in hours, a number above 0 and up to {MAX_HOURS:.0f}",
    "points": f"give a whole number from {MIN_POINTS} to {MAX_POINTS}",
}


@dataclass(frozen=True)
class ApiRoutes:
    """Handlers of the REST paths; FastAPI runs each call in a worker thread."""

    queries: Queries
    histories: HistoryQueries
    events: BatteryEvents

    def router(self) -> APIRouter:
        """Router with all paths."""
        router = APIRouter(prefix="/api")
        one, some = {"responses": _ONE_BATTERY}, {"responses": READ_RESPONSES}
        add: Any = router.add_api_route
        add("/battery/status", self.status, response_model=responses.BatteryStatus, tags=["battery"], **one)
        add("/battery/detailed", self.detailed, response_model=responses.DetailedStatus, tags=["battery"], **one)
        add(
            "/battery/comparison", self.comparison, response_model=responses.ComparisonResponse, tags=["battery"], **one
        )
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
        """Newest reading and health of one battery as one flat object."""
        row = self._snapshot(battery_id)
        fields = responses.BatteryStatus.model_fields
        return {
            **{name: row[name] for name in fields if name in row},
            "reasons": [triggered.message for triggered in triggered_rules(row)],
        }

    def detailed(self, battery_id: BatteryId = None) -> dict[str, Any]:
        """Newest reading and predictions of one battery, grouped by origin."""
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
            "events": self.events.listed(row["battery_id"]),
            "missing_event": self.events.missing(row["battery_id"]),
        }

    def comparison(self, battery_id: BatteryId = None) -> dict[str, Any]:
        """Per target: prediction for the newest reading, actual value, and error if the ground truth is known."""
        row = self._snapshot(battery_id)
        battery_id = row["battery_id"]
        newest = {
            p["target"]: p
            for p in self.queries.predictions(battery_id)
            if p["role"] == "champion"
            and _is_readable(p)
            and (row["time"] is None or row["time"] - p["time"] < PREDICTION_VALID_FOR)
        }
        matured = {outcome["target"]: outcome for outcome in self.queries.outcomes(battery_id)}
        entries = []
        for name, target in TARGETS.items():
            made, actual = newest.get(name), None
            if target.is_forecast:
                made = self._forecast_for_now(row["time"], made)
            if target.signal is not None:
                actual = None if target.is_forecast and made is None else row[target.signal]
            elif name in matured:
                made, actual = matured[name], matured[name]["actual"]
            entries.append(_compared(target, made, actual))
        return {"battery_id": battery_id, "timestamp": row["time"], "comparison": entries}

    def history(self, battery_id: BatteryId = None, hours: Hours = 24.0, points: Points = DEFAULT_POINTS) -> Response:
        """Readings and predictions in time order, downsampled if there are more than `points`."""
        window = self._window(battery_id, hours, points)
        readings, predictions = self.histories.readings(window), self.histories.predictions(window)
        return _unvalidated(
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
        """Row of the view `latest_battery_status`."""
        battery_id = self._battery_id(battery_id)
        row = self.queries.latest(battery_id)
        if row is None:
            raise _unknown(battery_id)
        return row

    def predictions(self, battery_id: BatteryId = None) -> dict[str, Any]:
        """The newest prediction of each target and role."""
        battery_id = self._existing(battery_id)
        rows = [row for row in self.queries.predictions(battery_id) if _is_readable(row)]
        return {
            "battery_id": battery_id,
            "prediction_timestamp": max((row["predicted_at"] for row in rows if row["predicted_at"]), default=None),
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
        """Ids of all batteries, and their number."""
        ids = self.queries.battery_ids()
        return {"batteries": ids, "count": len(ids)}

    def alerts(self) -> Response:
        """Batteries with triggered alert rules and their reasons, CRITICAL first."""
        found = [entry for row in self.queries.alert_candidates() if (entry := _alert(row)) is not None]
        found.sort(key=lambda entry: (entry["reasons"][0]["severity"] != "CRITICAL", entry["battery_id"]))
        return _unvalidated({"alerts": found, "count": len(found)})

    def _battery_id(self, battery_id: str | None) -> str:
        """`battery_id`, or the id of the only battery."""
        if battery_id is not None:
            return battery_id
        ids = self.queries.battery_ids(limit=2)
        if not ids:
            raise ApiError(404, "no battery has sent data yet", field="battery_id")
        if len(ids) > 1:
            count = self.queries.count_batteries()
            raise ApiError(409, f"there are {count} batteries: give battery_id", field="battery_id")
        return ids[0]

    def _existing(self, battery_id: str | None) -> str:
        battery_id = self._battery_id(battery_id)
        if not self.queries.exists(battery_id):
            raise _unknown(battery_id)
        return battery_id

    def _snapshot(self, battery_id: str | None) -> StoreRow:
        battery_id = self._battery_id(battery_id)
        row = self.queries.snapshot(battery_id)
        if row is None:
            raise _unknown(battery_id)
        return row

    def _window(self, battery_id: str | None, hours: float, points: int) -> HistoryWindow:
        battery_id = self._existing(battery_id)
        until = self.queries.newest_time(battery_id) or self.queries.now()
        return HistoryWindow(battery_id, until - timedelta(hours=hours), until, points)

    def _forecast_for_now(self, time: datetime | None, newest: StoreRow | None) -> StoreRow | None:
        # The horizon depends on the release; the newest forecast has it.
        if time is None or newest is None or newest["due"] is None:
            return None
        horizon = newest["due"] - newest["time"]
        if not timedelta(0) < horizon <= timedelta(hours=MAX_HOURS):  # damaged: there is no such forecast
            return None
        return self.queries.forecast_for(newest["battery_id"], newest["target"], time, horizon)


def _is_readable(prediction: StoreRow) -> bool:
    """Whether a stored prediction has a value and a time: NaN, infinity and times beyond the contract are None."""
    return prediction["value"] is not None and prediction["time"] is not None


def _unvalidated(content: dict[str, Any]) -> Response:
    """JSON response without FastAPI's validation, which is slow for 10,000 values; a test checks the schema."""
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), media_type="application/json")


def _unknown(battery_id: str) -> ApiError:
    return ApiError(404, f"unknown battery: {battery_id}", field="battery_id", value=battery_id)


def _interval(row: Mapping[str, Any], lower: str = "lower", upper: str = "upper") -> tuple[float, float] | None:
    return None if row[lower] is None or row[upper] is None else (row[lower], row[upper])


def _predicted(row: StoreRow) -> dict[str, Any]:
    return {
        target.shown.field: {
            "value": row[target.predicted_column],
            "unit": target.shown.unit,
            "interval": _interval(row, f"{name}_lower", f"{name}_upper"),
            "due": row.get(f"{name}_due"),
        }
        for name, target in TARGETS.items()
    }


def _compared(target: Target, made: StoreRow | None, actual: float | None) -> dict[str, Any]:
    predicted = None if made is None else made["value"]
    model = made and made.get("model_name")
    return {
        "name": target.shown.field,
        "actual": actual,
        "predicted": predicted,
        "error": None if predicted is None or actual is None else predicted - actual,
        "unit": target.shown.unit,
        "interval": None if made is None else _interval({"lower": None, "upper": None, **made}),
        "model": f"{model}/{made['model_version']}" if made and model else None,
        "note": None if actual is not None else target.shown.no_truth,
    }


def _prediction(row: StoreRow) -> dict[str, Any]:
    fields = {name: row[name] for name in responses.StoredPrediction.model_fields if name in row}
    target = TARGETS.get(row["target"])
    return {**fields, "unit": "" if target is None else target.shown.unit, "interval": _interval(row)}


def _resolution(series: HistorySeries) -> dict[str, Any]:
    return {"method": series.method, "interval_s": series.interval_s}


def _alert(row: StoreRow) -> dict[str, Any] | None:
    found = triggered_rules(row)
    if not found:
        return None
    return {
        **{name: row[name] for name in responses.BatteryAlert.model_fields if name != "reasons"},
        "reasons": [
            {
                "rule": triggered.rule.name,
                "category": triggered.rule.category,
                "severity": triggered.severity,
                "value": triggered.value,
                "threshold": triggered.rule.threshold(triggered.severity),
                "unit": triggered.rule.unit,
                "reason": triggered.message,
            }
            for triggered in found
        ],
    }
