-- Health status of a reading: the first rule that matches applies; a missing value (NULL or NaN) matches none.
CREATE OR REPLACE FUNCTION get_battery_health(
    soc double precision,
    soh double precision,
    temperature double precision,
    failure_probability double precision
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN soc < 15 OR soh < 75 OR NULLIF(temperature, 'NaN') > 60 OR NULLIF(failure_probability, 'NaN') > 0.7
            THEN 'CRITICAL'
        WHEN soc < 30 OR soh < 85 OR NULLIF(temperature, 'NaN') > 45 OR NULLIF(failure_probability, 'NaN') > 0.3
            THEN 'WARNING'
        ELSE 'NORMAL'
    END
$$;

CREATE OR REPLACE FUNCTION ev_telemetry_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := get_battery_health(NEW.soc, NEW.soh, NEW.temperature, NEW.failure_probability);
    -- Register the battery of the reading: the view latest_battery_status starts from the table batteries.
    IF TG_OP = 'INSERT' AND NOT EXISTS (SELECT FROM batteries b WHERE b.battery_id = NEW.battery_id) THEN
        INSERT INTO batteries (battery_id) VALUES (NEW.battery_id) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER ev_telemetry_status
    BEFORE INSERT OR UPDATE ON ev_telemetry
    FOR EACH ROW EXECUTE FUNCTION ev_telemetry_before_write();
