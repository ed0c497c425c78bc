-- Late reading: it arrived after the battery's state was updated from a newer one; stored without a prediction.
ALTER TABLE ev_telemetry ADD COLUMN IF NOT EXISTS late boolean;

CREATE OR REPLACE VIEW latest_battery_status AS
SELECT
    b.battery_id, t.time, t.voltage, t.current, t.temperature, t.soc, t.soh, t.ambient_temperature,
    t.charge_cycles, t.power_consumption, t.is_charging, t.temperature_min, t.cell_voltage_min,
    t.cell_voltage_max, t.cell_voltage_median, t.insulation_resistance, t.odometer_km, t.speed_kmh,
    t.warning_level, t.status, t.rul_prediction, t.failure_probability, t.prediction_timestamp, t.created_at, t.late
FROM batteries b
LEFT JOIN LATERAL (
    SELECT * FROM ev_telemetry e WHERE e.battery_id = b.battery_id ORDER BY e.time DESC LIMIT 1
) t ON true;
