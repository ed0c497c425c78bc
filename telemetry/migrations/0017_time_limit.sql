-- Rows further ahead of the clock than the setting twin.max_future_s (s, 300 by default, 'inf' for no limit) come from a
-- wrong clock.  They are not the newest row of their battery until their time has come.  A connection has its own value
-- (TWIN_MAX_FUTURE_S); for others, such as Grafana's: ALTER DATABASE telemetry SET twin.max_future_s = '300'.
CREATE OR REPLACE FUNCTION twin_time_limit() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT now() + make_interval(
        secs => LEAST(COALESCE(NULLIF(current_setting('twin.max_future_s', true), '')::double precision, 300), 1e9))
$$;
COMMENT ON FUNCTION twin_time_limit() IS 'Latest time of a row that counts as the newest of its battery.';

CREATE OR REPLACE VIEW latest_battery_status AS
SELECT
    b.battery_id, t.time, t.voltage, t.current, t.temperature, t.soc, t.soh, t.ambient_temperature,
    t.charge_cycles, t.power_consumption, t.is_charging, t.temperature_min, t.cell_voltage_min,
    t.cell_voltage_max, t.cell_voltage_median, t.insulation_resistance, t.odometer_km, t.speed_kmh,
    t.warning_level, t.status, t.rul_prediction, t.failure_probability, t.prediction_timestamp, t.created_at, t.late
FROM batteries b
LEFT JOIN LATERAL (
    SELECT * FROM ev_telemetry e
    WHERE e.battery_id = b.battery_id AND e.voltage IS NOT NULL
      AND e.time >= '1970-01-01 00:00:00+00' AND e.time <= twin_time_limit()
    ORDER BY e.time DESC LIMIT 1
) t ON true;
