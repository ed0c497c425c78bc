"""A fifth target, and its check in a clone that has it: served, stored, evaluated, exported and shown."""

from __future__ import annotations

import re
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from features.labels import LabelParams
from monitoring.evaluation.evaluator import Evaluator
from monitoring.exporter import TwinCollector
from monitoring.fleet_queries import FleetReader
from monitoring.registry_poll import RegistryPoller
from simulator.service_client import BatteryReadings, PredictionClient
from telemetry.batch import Batch
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore
from tests.console.conftest import api_app, served
from tests.serving.conftest import cycle, serve

TARGET = "resistance_growth"
LABEL = '''

def resistance_growth(ages: FloatArray, record: BatteryRecord, params: LabelParams) -> FloatArray:
    """Mean resistance of the cycles within the next 100 equivalent full cycles, relative to the newest one."""
    known = np.isfinite(record.cycles["resistance_ohm"])
    at, ohm = record.cycle_index[known], record.cycles["resistance_ohm"][known]
    first, last = (np.searchsorted(at, ages + ahead, side="right") for ahead in (0.0, 100.0))
    label = np.full(len(ages), np.nan)
    for i in np.flatnonzero((first > 0) & (last > first) & (ages + 100.0 <= record.last_cycle)):
        label[i] = ohm[first[i] : last[i]].mean() / ohm[first[i] - 1]
    return label
'''
ENTRY = """        Target(
            name="resistance_growth",
            title="Internal resistance growth",
            unit="ratio",
            kind="regression",
            cadence="cycle",
            label="resistance_ratio",
            feature_names=CYCLE_FEATURES,
            forbidden=_HEALTH_LABELS,
            baselines=("mean", "cycle_count"),
            matures="cycles",
            horizon=100.0,
            label_of=labels.resistance_growth,
            label_columns=("resistance_ohm",),
            minimum_cycles=2,
            floor=0.1,
            shown=Presentation(
                field="resistance_growth",
                short="R growth",
                unit="%",
                symbol="%",
                decimals=1,
                axis_span=(5.0, 0.0),
                description="resistance within the horizon relative to now",
                purpose="Resistance in the next 100 cycles.",
                no_label="no cycle has a resistance",
                no_truth="known after the horizon",
                error_buckets=(0.5, 1.0, 5.0, 10.0, 50.0),
                factor=100.0,
            ),
        ),
"""
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
BATTERY = {"battery_id": "EV-1", "nominal_capacity_ah": 150.0, "chemistry": "NMC", "cells_in_series": 96}


def predict_and_store(settings: Settings, dsn: str) -> None:
    """Predictions for one reading at age 30, and cycles until age 200 in which the resistance doubles."""
    reading = {
        "battery_id": "EV-1", "time": NOW, "voltage": 360.0, "current": 40.0, "temperature": 25.0, "soc": 60.0,
        "charge_cycles": 30.0,
    }  # fmt: skip
    with serve(settings, workers=1, ready="/readyz") as service:
        battery = {name: value for name, value in BATTERY.items() if name != "battery_id"}
        entry = {"battery_id": "EV-1", "battery": battery, "cycles": [cycle(index) for index in range(1, 31)]}
        response = service.post("/predict", json={"batteries": [entry]})
        assert response.status_code == 200, response.text
        (first,) = response.json()["predictions"]
        assert first[TARGET]["value"] is not None
        assert (first[TARGET]["unit"], first[TARGET]["horizon_cycles"]) == ("%", 100.0)
        assert TARGET in service.get("/openapi.json").text
        with PredictionClient(str(service.base_url)) as client:
            posted = BatteryReadings("EV-1", [reading], first["state"], BATTERY)
            ((predictions,),) = client.predict([posted], every_reading=True)
    rows = predictions.rows(NOW)
    assert TARGET in {row["target"] for row in rows}
    cycles = [
        {
            "battery_id": "EV-1", "cycle_index": float(age), "kind": "cycle", "end_time": NOW + timedelta(minutes=age),
            "resistance_ohm": 0.05 if age <= 30 else 0.1,
        }
        for age in range(1, 201)
    ]  # fmt: skip
    store = PostgresStore(dsn)
    store.write(Batch(batteries=[BATTERY], readings=[reading], predictions=rows, cycles=cycles))
    store.close()


def check_metrics(settings: Settings, dsn: str) -> None:
    """The exporter has the prediction, the ground truth and the error of the target."""
    reader = FleetReader(dsn)
    registry = CollectorRegistry()
    registry.register(TwinCollector(reader, RegistryPoller(settings)))
    text = generate_latest(registry).decode()
    reader.close()
    assert f'battery_{TARGET}_predicted{{battery_id="EV-1"}}' in text
    actual = re.search(rf'^battery_{TARGET}_actual{{battery_id="EV-1"}} (\S+)$', text, re.MULTILINE)
    assert actual is not None, text
    assert float(actual[1]) == pytest.approx(200.0)
    assert f'prediction_accuracy{{metric="{TARGET}"}}' in text


def check_console(dsn: str, folder: Path) -> None:
    """The console's REST API has the target in every answer with predictions."""
    with api_app(dsn, folder) as app, served(app) as api:
        paths = ("predictions", "comparison", "detailed", "status", "history")
        get = {path: api.get(f"/api/battery/{path}").json() for path in paths}
    (stored,) = [one for one in get["predictions"]["predictions"] if one["target"] == TARGET]
    assert stored["unit"] == "%"
    (compared,) = [one for one in get["comparison"]["comparison"] if one["name"] == TARGET]
    assert compared["actual"] == pytest.approx(200.0)
    assert compared["predicted"] == stored["value"]
    assert get["detailed"]["battery"]["predicted"][TARGET]["value"] == stored["value"]
    assert get["status"][f"{TARGET}_predicted"] == stored["value"]
    assert get["history"]["predictions"][0][TARGET] == stored["value"]


def main(dsn: str) -> None:
    """Check the target on the registry of the clone and an empty store."""
    settings = Settings()
    migrate(dsn)
    predict_and_store(settings, dsn)
    evaluator = Evaluator(dsn, lambda _name, _version: LabelParams())
    evaluator.catch_up()
    evaluator.close()
    check_metrics(settings, dsn)
    with tempfile.TemporaryDirectory() as folder:
        check_console(dsn, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
