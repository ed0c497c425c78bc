"""Fills a telemetry store with synthetic batteries, readings and predictions in SQL, for benchmarks and tests."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import psycopg2

from telemetry.stores.migrate import migrate

_BATCHES = 20


@dataclass(frozen=True)
class StoreSize:
    """Size of a synthetic store; readings are spread evenly over `span`, which ends now.

    Attributes:
        readings: of all batteries together; every `predict_every`-th has the four predictions.
    """

    batteries: int = 1_000
    readings: int = 10_000_000
    span: timedelta = timedelta(days=30)
    predict_every: int = 10


def fill(dsn: str, size: StoreSize) -> None:
    """Migrate the database and fill it with readings up to now, in the order in which a fleet would send them.

    One battery in ten is worn, one in fifty hot, one in ten low on charge, so that there are alerts.
    """
    migrate(dsn)
    steps = size.readings // size.batteries
    with closing(psycopg2.connect(dsn)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(_BATTERIES, {"n": size.batteries})
        for first in range(0, steps, -(-steps // _BATCHES)):
            last = min(first - (-steps // _BATCHES), steps)
            values = {
                "first": first,
                "last": last - 1,
                "steps": steps,
                "step": size.span / steps,
                "every": size.predict_every,
            }
            with connection, connection.cursor() as cursor:
                # The row trigger costs more than the insert itself; the status is computed in the statement instead.
                cursor.execute("ALTER TABLE ev_telemetry DISABLE TRIGGER USER")
                cursor.execute(_READINGS, values)
                cursor.execute("ALTER TABLE ev_telemetry ENABLE TRIGGER USER")
                cursor.execute(_PREDICTIONS, values)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE ev_telemetry")
            cursor.execute("VACUUM ANALYZE battery_predictions")


_BATTERIES = """
    INSERT INTO batteries (battery_id, nominal_capacity_ah, nominal_voltage, chemistry, cells_in_series,
                           cells_in_parallel, model, in_service_since, fleet)
    SELECT 'EV-' || lpad(n::text, 4, '0'), 150, 350.4, 'NMC', 96, 2, 'zoe-52', now() - interval '4 years',
           (ARRAY['private', 'delivery', 'motorway', 'taxi'])[1 + n %% 4]
    FROM generate_series(0, %(n)s - 1) n ON CONFLICT DO NOTHING
"""
# Ordered by time and then battery, as the rows of a fleet arrive.
_GRID = """
    SELECT b.battery_id, b.n, k, now() - (%(steps)s - 1 - k) * %(step)s::interval AS time,
           0.5 + 0.5 * sin(k * 0.05 + b.n) AS wave
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) k
    CROSS JOIN (SELECT battery_id, row_number() OVER (ORDER BY battery_id) AS n FROM batteries) b
    ORDER BY k, b.n
"""
_READINGS = f"""
    INSERT INTO ev_telemetry (battery_id, time, voltage, current, temperature, soc, soh, ambient_temperature,
        charge_cycles, power_consumption, is_charging, temperature_min, cell_voltage_min, cell_voltage_max,
        cell_voltage_median, odometer_km, speed_kmh, warning_level, status, rul_prediction, failure_probability,
        prediction_timestamp, created_at)
    SELECT battery_id, time, voltage, current, temperature, soc, soh, 18, 400 + k * 0.002, voltage * current,
           current < 0, temperature - 3, voltage / 96 - 0.02, voltage / 96 + 0.015, voltage / 96,
           30000 + k * 0.5, 50 * wave, 0, get_battery_health(soc, soh, temperature, failure), rul, failure, time, time
    FROM (
        SELECT m.*, 330 + 60 * wave AS voltage, 120 * wave - 50 AS current,
               CASE WHEN n %% 50 = 0 THEN 48 ELSE 22 END + 8 * wave AS temperature,
               CASE WHEN n %% 10 = 3 THEN 12 ELSE 40 END + 40 * wave AS soc,
               CASE WHEN n %% 10 = 7 THEN 80 ELSE 92 END - k * 0.0002 AS soh,
               CASE WHEN n %% 10 = 7 THEN 90 ELSE 700 END AS rul,
               CASE WHEN n %% 10 = 7 THEN 0.4 ELSE 0.02 END AS failure
        FROM ({_GRID}) m
    ) r
"""  # noqa: S608 - constant text
_PREDICTIONS = f"""
    INSERT INTO battery_predictions (battery_id, time, target, value, lower, upper, due, model_name, model_version,
        role, predicted_at, cycle_index)
    SELECT battery_id, time, target, value, value * 0.97, value * 1.03,
           CASE WHEN target = 'temperature' THEN time + interval '300 s' END,
           'battery-' || target, '1', 'champion', time, 400 + k * 0.002
    FROM ({_GRID}) m
    CROSS JOIN LATERAL (VALUES ('soh', 91.0), ('temperature', 24.0 + 8 * wave), ('rul', 700.0), ('failure', 0.02)) AS
        p(target, value)
    WHERE k %% %(every)s = (%(steps)s - 1) %% %(every)s
"""  # noqa: S608
