"""The prediction service over real HTTP with two workers: responses, errors, metrics and documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from features import state
from features.labels import LabelParams
from features.table import build
from serving.predictor import Predictor
from serving.request_decoding import RequestLimits, decode_request
from serving.request_scoring import score_request
from serving.response import ErrorResponse, PredictResponse
from telemetry.batch import rows_of
from telemetry.contract import CYCLE_FIELDS, READING_FIELDS
from telemetry.wire import json_values
from tests.features.conftest_features import drive, empty_frame

Battery = Callable[..., dict[str, Any]]
VOLTAGE = "batteries[0].readings[0].voltage"


def post(service: httpx.Client, *batteries: dict[str, Any]) -> httpx.Response:
    return service.post("/predict", content=json.dumps({"batteries": batteries}))


def predicted(service: httpx.Client, *batteries: dict[str, Any]) -> list[dict[str, Any]]:
    response = post(service, *batteries)
    assert response.status_code == 200, response.text
    PredictResponse.model_validate_json(response.content)
    entries: list[dict[str, Any]] = response.json()["predictions"]
    return entries


def scraped(service: httpx.Client) -> dict[str, float]:
    text = service.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}


def test_four_predictions_for_each_battery(service: httpx.Client, battery: Battery) -> None:
    first, second = predicted(service, battery("A", cycles=range(1, 15)), battery("B", cycles=range(1, 20)))
    assert (first["battery_id"], second["battery_id"]) == ("A", "B")
    for target in ("soh", "temperature", "rul", "failure_probability"):
        assert first[target]["value"] is not None
    assert first["time"] == "2026-01-01T00:00:02Z"
    assert first["release"] == "battery-twin/1"
    assert first["notes"] == []


def test_state_can_be_continued_by_any_worker(service: httpx.Client, battery: Battery) -> None:
    (whole,) = predicted(service, battery(readings=range(40), cycles=range(1, 13)))
    (part,) = predicted(service, battery(readings=(), cycles=range(1, 13)))
    for second in range(40):
        with httpx.Client(base_url=service.base_url) as another_connection:
            (part,) = predicted(another_connection, battery(readings=[second], state=part["state"]))
    assert part == whole


def test_large_request_equals_small_requests(service: httpx.Client, battery: Battery) -> None:
    entries = [battery(f"B{i}", readings=range(40)) for i in range(20)]
    assert len(json.dumps(entries)) > 64 * 1024
    assert predicted(service, *entries)[7] == predicted(service, entries[7])[0]


def test_missing_null_and_nan_optional_fields_are_equal(service: httpx.Client, battery: Battery) -> None:
    plain, odd = battery(readings=[0]), battery(readings=[0])
    odd["readings"][0] |= {"soc": None, "is_charging": None, "ambient_temperature": float("nan")}
    bare = {key: value for key, value in plain.items() if key != "cycles"}
    responses = [predicted(service, entry) for entry in (plain, odd, bare)]
    assert responses[0] == responses[1] == responses[2]


def test_unknown_fields_are_ignored_and_counted(service: httpx.Client, battery: Battery) -> None:
    before = scraped(service)["unknown_fields_total"]
    entry = battery(readings=[0], colour="red")
    entry["readings"][0]["humidity"] = 40
    (got,) = predicted(service, entry)
    assert got["notes"] == ["2 fields not in the contract ignored"]
    assert scraped(service)["unknown_fields_total"] == before + 2


def test_stale_readings_are_reported_in_the_notes(service: httpx.Client, battery: Battery) -> None:
    (first,) = predicted(service, battery(readings=range(5)))
    (second,) = predicted(service, battery(readings=[1, 2, 5], state=first["state"]))
    assert second["notes"] == ["2 readings older than the state were left out"]


def test_unknown_capacity_is_reported_in_the_notes(service: httpx.Client, battery: Battery) -> None:
    (got,) = predicted(service, battery(battery=None))
    assert "battery.nominal_capacity_ah" in got["notes"][0]


DROP = object()
BAD_READINGS: list[tuple[dict[str, Any], str]] = [
    ({"voltage": DROP}, VOLTAGE),
    ({"voltage": None}, VOLTAGE),
    ({"voltage": "high"}, VOLTAGE),
    ({"voltage": float("nan")}, VOLTAGE),
    ({"voltage": float("inf")}, VOLTAGE),
    ({"voltage": -1}, VOLTAGE),
    ({"voltage": 10**400}, VOLTAGE),
    ({"voltage": ["x" * 5000]}, VOLTAGE),
    ({"temperature": 151}, "batteries[0].readings[0].temperature"),
    ({"time": "9999-12-31T23:59:00Z"}, "batteries[0].readings[0].time"),
    ({"time": "0001-01-01T00:00:00+14:00"}, "batteries[0].readings[0].time"),
    ({"time": "2099-01-01T00:00:00Z"}, "batteries[0].readings[0].time"),
    ({"time": "2026-01-01T00:00:00"}, "batteries[0].readings[0].time"),
    ({"time": "yesterday"}, "batteries[0].readings[0].time"),
    ({"time": DROP}, "batteries[0].readings[0].time"),
]


@pytest.mark.parametrize(("change", "field"), BAD_READINGS)
def test_invalid_reading_is_rejected_with_422(
    service: httpx.Client, battery: Battery, change: dict[str, Any], field: str
) -> None:
    entry = battery(readings=[0])
    reading = entry["readings"][0] | change
    entry["readings"] = [{key: value for key, value in reading.items() if value is not DROP}]
    response = post(service, entry)
    assert response.status_code == 422, response.text
    error = ErrorResponse.model_validate_json(response.content)
    assert error.field == field
    assert field in error.error
    assert len(response.content) < 1000
    (sent,) = change.values()
    if isinstance(sent, str):
        assert error.value == sent


_READING = b'{"time": "2026-01-01T00:00:00Z", "current": 1, "temperature": 1, "voltage": 1' + b"0" * 6000 + b"}"
HUGE = b'{"batteries": [{"battery_id": "a", "readings": [' + _READING + b"]}]}"
BAD_BODIES: list[tuple[bytes, int, str | None]] = [
    (b"", 400, None),
    (b"voltage=3", 400, None),
    (b'{"batteries": [', 400, None),
    (b"\xff\xfe", 400, None),
    (b"[" * 100_000, 400, None),
    (b"[]", 422, "the request"),
    (b"null", 422, "the request"),
    (b"{}", 422, "batteries"),
    (b'{"batteries": []}', 422, "batteries"),
    (b'{"batteries": {}}', 422, "batteries"),
    (b'{"batteries": [7]}', 422, "batteries[0]"),
    (b'{"batteries": [{}]}', 422, "batteries[0].battery_id"),
    (b'{"batteries": [{"battery_id": "a b"}]}', 422, "batteries[0].battery_id"),
    (b'{"batteries": [{"battery_id": "' + b"x" * 51 + b'"}]}', 422, "batteries[0].battery_id"),
    (b'{"batteries": [{"battery_id": "a", "readings": 5}]}', 422, "batteries[0].readings"),
    (b'{"batteries": [{"battery_id": "a", "cycles": [{}]}]}', 422, "batteries[0].cycles[0].cycle_index"),
    (b'{"batteries": [{"battery_id": "a", "battery": {"chemistry": "XYZ"}}]}', 422, "batteries[0].battery.chemistry"),
    (b'{"batteries": [{"battery_id": "a", "state": "x"}]}', 409, "batteries[0].state"),
    (b'{"batteries": [{"battery_id": "a", "state": ""}]}', 409, "batteries[0].state"),
    (HUGE, 400, None),
    (json.dumps({"batteries": [{"battery_id": f"B{i}"} for i in range(51)]}).encode(), 413, "batteries"),
    (b" " * 1_000_001, 413, None),
]


@pytest.mark.parametrize(("body", "status", "field"), BAD_BODIES, ids=[f"{body[:60]!r}" for body, *_ in BAD_BODIES])
def test_invalid_body_is_rejected(service: httpx.Client, body: bytes, status: int, field: str | None) -> None:
    response = service.post("/predict", content=body)
    assert response.status_code == status, response.text
    error = ErrorResponse.model_validate_json(response.content)
    assert error.field == field
    assert "Traceback" not in response.text


def test_too_many_rows_are_rejected_with_413(service: httpx.Client) -> None:
    readings = [{"time": "2026-01-01T00:00:00Z", "voltage": 1, "current": 1, "temperature": 1}] * 2001
    response = post(service, {"battery_id": "a", "readings": readings})
    assert response.status_code == 413
    assert "2000 readings" in response.json()["error"]


def test_large_body_without_content_length_is_rejected_with_413(service: httpx.Client) -> None:
    response = service.post("/predict", content=(b" " * 100_000 for _ in range(11)))
    assert response.status_code == 413


@pytest.mark.parametrize("damage", ["cut", "flip", "version"])
def test_unusable_state_is_rejected_with_409(
    service: httpx.Client, battery: Battery, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = state.new_states(1)[0]
    text = state.encode(fresh, "EV-7")
    if damage == "cut":
        text = text[:-8]
    elif damage == "flip":
        text = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    else:
        monkeypatch.setattr(state, "STATE_VERSION", 0)
        text = state.encode(fresh, "EV-7")
    response = post(service, battery(state=text))
    assert response.status_code == 409
    assert response.json()["field"] == "batteries[0].state"
    assert "history" in response.json()["error"]


def test_wrong_method_and_path_are_rejected(service: httpx.Client) -> None:
    assert service.get("/predict").status_code == 405
    assert service.get("/nothing").status_code == 404


def test_metrics_sum_over_all_workers(service: httpx.Client, battery: Battery) -> None:
    before = scraped(service)

    def call(number: int) -> str:
        with httpx.Client(base_url=service.base_url) as own_connection:
            return str(predicted(own_connection, battery(f"B{number}", readings=[0]))[0]["battery_id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(call, range(60)))) == 60
    post(service, {})
    grown = {name: value - before.get(name, 0.0) for name, value in scraped(service).items()}
    assert grown['predictions_total{target="temperature"}'] == 60
    assert grown['predictions_withheld_total{target="rul"}'] == 60
    assert grown["prediction_request_duration_seconds_count"] == 60
    assert grown['prediction_request_duration_seconds_bucket{le="+Inf"}'] == 60
    assert grown["prediction_request_duration_seconds_sum"] > 0
    assert grown['requests_refused_total{status="422"}'] == 1


def test_health_and_documentation_need_no_internet_access(service: httpx.Client) -> None:
    assert service.get("/livez").status_code == 200
    assert service.get("/readyz").status_code == 200
    page = service.get("/", follow_redirects=True)
    assert page.status_code == 200
    assert "https://" not in page.text
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert service.get(f"/{path.lstrip('/')}").status_code == 200, path


def test_openapi_describes_the_request_and_its_errors(service: httpx.Client) -> None:
    document = service.get("/openapi.json").json()
    operation = document["paths"]["/predict"]["post"]
    assert set(operation["responses"]) == {"200", "400", "408", "409", "413", "415", "422", "500", "503"}
    assert set(operation["responses"]["503"]["headers"]) == {"Retry-After"}
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/PredictRequest"}
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= schemas.keys()
    assert "$defs" not in json.dumps(document)
    assert "voltage" in schemas["Reading"]["properties"]


def test_response_equals_direct_scoring(service: httpx.Client, predictor: Predictor, battery: Battery) -> None:
    body = json.dumps({"batteries": [battery(cycles=range(1, 15))]}).encode()
    request = decode_request(body, RequestLimits(9, 99, 9)).scoring_request
    (result,) = score_request(request, predictor)
    (got,) = service.post("/predict", content=body).json()["predictions"]
    assert got["rul"]["value"] == result.predicted["rul"].values[0]
    assert got["state"] == state.encode(request.states[0], "EV-7")


def test_every_reading_has_an_entry(service: httpx.Client, battery: Battery) -> None:
    sent = [battery("A", readings=range(0, 90, 30), cycles=range(1, 15)), battery("B", readings=())]
    response = service.post("/predict", content=json.dumps({"batteries": sent, "every_reading": True}))
    assert response.status_code == 200
    PredictResponse.model_validate_json(response.content)
    first, second, last, without_readings = response.json()["predictions"]
    assert "state" not in first | second
    assert [first, second] == [
        {key: value for key, value in entry.items() if key != "state"}
        for readings in (sent[0]["readings"][:1], sent[0]["readings"][:2])
        for entry in predicted(service, sent[0] | {"readings": readings})
    ]
    assert [last, without_readings] == predicted(service, *sent)


def test_closed_sessions_are_returned_on_request(service: httpx.Client) -> None:
    times = np.concatenate([np.arange(0.0, 9_000.0, 30.0), np.arange(90_000.0, 94_000.0, 30.0)])
    frame = drive(times, seed=1)
    pack = {"battery_id": ["EV-1"], "nominal_capacity_ah": [100.0], "cells_in_series": [96.0], "chemistry": ["NMC"]}
    entry = {
        "battery_id": "EV-1",
        "battery": {"nominal_capacity_ah": 100, "cells_in_series": 96, "chemistry": "NMC"},
        "readings": [json_values(row, READING_FIELDS) for row in rows_of(frame)],
    }
    short = entry | {
        "battery_id": "short",
        "readings": [row | {"battery_id": "short"} for row in entry["readings"][:3]],
    }
    sent = {"batteries": [short, {"battery_id": "C"}, entry], "closed_cycles": True}
    response = service.post("/predict", json=sent)
    PredictResponse.model_validate_json(response.content)
    before, without_readings, last = response.json()["predictions"]
    assert before["closed_cycles"] == without_readings["closed_cycles"] == []
    built = build(
        frame.assign(soh=np.nan, warning_level=np.nan), empty_frame(CYCLE_FIELDS), pd.DataFrame(pack), LabelParams()
    )
    expected = [json_values(row, CYCLE_FIELDS) for row in rows_of(built.cycles.drop(columns="soh"))]
    assert last["closed_cycles"] == expected
    assert len(expected) >= 3
    entries = service.post("/predict", json=sent | {"every_reading": True}).json()["predictions"]
    at = [(entry["time"], session) for entry in entries for session in entry["closed_cycles"]]
    assert [session for _, session in at] == expected
    assert all(time >= session["end_time"] for time, session in at)
    assert "closed_cycles" not in service.post("/predict", json={"batteries": [entry]}).json()["predictions"][0]


@pytest.mark.parametrize("value", ["yes", 1, []])
def test_every_reading_has_to_be_a_boolean(service: httpx.Client, battery: Battery, value: object) -> None:
    response = service.post("/predict", content=json.dumps({"batteries": [battery()], "every_reading": value}))
    assert response.status_code == 422
    assert response.json() == {
        "error": f"every_reading is {value!r}: must be true or false",
        "field": "every_reading",
        "value": value if isinstance(value, int) else str(value),
    }
