"""Changes of the last day, on a real telemetry store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from console.alerts.alert_lifecycle import find_transitions
from console.alerts.alert_store import AlertStore
from console.connection_pool import Database
from console.pages.fleet import _change_lines
from console.queries import Queries
from telemetry.batch import Batch
from telemetry.stores.migrate import migrate
from telemetry.stores.postgres import PostgresStore

NOW = datetime.now(UTC).replace(microsecond=0)


def reading(battery_id: str, hours_ago: float, **fields: Any) -> dict[str, Any]:
    time = NOW - timedelta(hours=hours_ago)
    row = {"battery_id": battery_id, "time": time, "voltage": 360.0, "current": 10.0, "temperature": 25.0}
    return {**row, **fields}


def rul(battery_id: str, hours_ago: float, value: float) -> dict[str, Any]:
    time = NOW - timedelta(hours=hours_ago)
    return {
        "battery_id": battery_id, "time": time, "target": "rul", "value": value, "role": "champion",
        "model_name": "battery-rul", "model_version": "1", "predicted_at": time,
    }  # fmt: skip


def test_alerts_movements_and_new_batteries_of_a_day(postgres_dsn: str) -> None:
    migrate(postgres_dsn)
    store, database = PostgresStore(postgres_dsn), Database(postgres_dsn, read_only=False)
    store.write(
        Batch(
            readings=[
                reading("EV-1", 25, soh=90.0),
                reading("EV-1", 0, soh=89.0, temperature=61.0),
                reading("EV-2", 60, soh=80.0),  # more than a day and its tolerance ago
                reading("EV-2", 0, soh=86.0),
                reading("EV-3", 2),
                reading("EV-3", 0),
                reading("EV-4", 24.5, soh=91.0),
                reading("EV-4", 0, soh=90.95),  # scatter
            ],
            predictions=[
                rul("EV-1", 24.5, 300.0),
                rul("EV-1", 0, 280.0),
                rul("EV-4", 24.5, 300.0),
                rul("EV-4", 0, 301),
            ],
        )
    )
    queries, alerts = Queries(database), AlertStore(database)
    rows = {row["battery_id"]: row for row in queries.snapshots()}
    before = queries.changes(rows)
    assert (before.opened_total, before.opened) == (0, [])
    alerts.apply(find_transitions({}, rows.values()))
    changes = queries.changes(rows)
    assert (changes.opened_total, changes.resolved_total) == (1, 0)
    assert [alert["battery_id"] for alert in changes.opened] == ["EV-1"]
    assert [(moved.battery_id, moved.change) for moved in changes.soh] == [("EV-1", -1.0)]
    assert [(moved.battery_id, moved.change) for moved in changes.rul] == [("EV-1", -20.0)]
    assert [battery_id for battery_id, _ in changes.new_batteries] == ["EV-3"]
    lines = _change_lines(changes, ["EV-2"])
    assert [line[:3] for line in lines] == [
        ("CRITICAL", "EV-1", "Temperature 61.0 °C is above 60.0 °C"),
        ("STALE", "EV-2", "went silent"),
        ("DOWN", "EV-1", "SoH -1.0 %, 90.0 to 89.0"),
        ("DOWN", "EV-1", "RUL -20 cycles, 300 to 280"),
        ("NEW", "EV-3", "new"),
    ]
    cooled = [{**rows["EV-1"], "temperature": 30.0}]
    alerts.apply(find_transitions(alerts.open_severities(), cooled))
    changes = queries.changes(rows)
    assert (changes.opened_total, changes.resolved_total, list(changes.opened)) == (1, 1, [])
    assert queries.changes({}).opened_total == 0
    database.close()
    store.close()
