-- The newest row of each battery: one index probe per battery, whatever the size of the table.  A battery whose
-- readings have all been deleted by retention stays, with nulls.
CREATE OR REPLACE VIEW latest_battery_status AS
SELECT
    b.battery_id, t.time, t.voltage, t.current, t.temperature, t.soc, t.soh, t.ambient_temperature,
    t.charge_cycles, t.power_consumption, t.is_charging, t.temperature_min, t.cell_voltage_min,
    t.cell_voltage_max, t.cell_voltage_median, t.insulation_resistance, t.odometer_km, t.speed_kmh,
    t.warning_level, t.status, t.rul_prediction, t.failure_probability, t.prediction_timestamp, t.created_at
FROM batteries b
LEFT JOIN LATERAL (
    SELECT * FROM ev_telemetry e WHERE e.battery_id = b.battery_id ORDER BY e.time DESC LIMIT 1
) t ON true;

-- Hours of UTC, whatever the time zone of the connection.  repeatable_1_timescaledb.sql replaces the view by a
-- continuous aggregate with the same name and columns where TimescaleDB supports it.
CREATE OR REPLACE VIEW ev_telemetry_hourly AS
SELECT
    date_bin('1 hour', time, '2000-01-01 00:00:00+00') AS bucket,
    battery_id,
    avg(soc) AS avg_soc,
    avg(soh) AS avg_soh,
    avg(temperature) AS avg_temperature,
    avg(voltage) AS avg_voltage,
    avg(current) AS avg_current,
    max(charge_cycles) AS max_cycles,
    avg(rul_prediction) AS avg_rul,
    avg(failure_probability) AS avg_failure_prob
FROM ev_telemetry
GROUP BY 1, 2;
