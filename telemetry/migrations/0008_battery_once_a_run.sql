-- Status as before.  The battery is looked up only where it differs from that of the previous row of the same
-- transaction, which halves the time of a COPY of readings.  Its id is cached in a setting that ends with the
-- transaction.
CREATE OR REPLACE FUNCTION ev_telemetry_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := get_battery_health(NEW.soc, NEW.soh, NEW.temperature, NEW.failure_probability);
    -- Register the battery of the reading: the view latest_battery_status starts from the table batteries.
    IF TG_OP = 'INSERT' AND NEW.battery_id IS DISTINCT FROM current_setting('twin.known_battery', true) THEN
        IF NOT EXISTS (SELECT FROM batteries b WHERE b.battery_id = NEW.battery_id) THEN
            INSERT INTO batteries (battery_id) VALUES (NEW.battery_id) ON CONFLICT DO NOTHING;
        END IF;
        PERFORM set_config('twin.known_battery', NEW.battery_id, true);
    END IF;
    RETURN NEW;
END
$$;
