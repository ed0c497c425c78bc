-- The status as before; whether the battery is known is asked only where it differs from the row before it in the same
-- transaction, which halves what a COPY of readings takes.  The name is remembered in a setting of the transaction, so
-- it is forgotten with it.
CREATE OR REPLACE FUNCTION ev_telemetry_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := get_battery_health(NEW.soc, NEW.soh, NEW.temperature, NEW.failure_probability);
    -- Whoever writes a reading makes its battery known: the latest view starts from the list of batteries.
    IF TG_OP = 'INSERT' AND NEW.battery_id IS DISTINCT FROM current_setting('twin.known_battery', true) THEN
        IF NOT EXISTS (SELECT FROM batteries b WHERE b.battery_id = NEW.battery_id) THEN
            INSERT INTO batteries (battery_id) VALUES (NEW.battery_id) ON CONFLICT DO NOTHING;
        END IF;
        PERFORM set_config('twin.known_battery', NEW.battery_id, true);
    END IF;
    RETURN NEW;
END
$$;
