-- Creates the roles twin_writer, twin_reader and twin_console with least privilege.  They have no login and no
-- password: grant one to a login (`GRANT twin_writer TO me`).  Where the owner may not create roles, missing ones are
-- skipped with a notice.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['twin_writer', 'twin_reader', 'twin_console'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            END IF;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'role % was not set up: % may not create roles', role_name, current_user;
            CONTINUE;
        END;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role_name);
        EXECUTE format('GRANT SELECT ON schema_migrations, ev_telemetry, batteries, battery_cycles, battery_predictions, '
                       'latest_battery_status, ev_telemetry_hourly, prediction_outcomes, kept_predictions, '
                       'battery_observations, evaluation_batteries, evaluation_roles, drift_status, drift_models, '
                       'drift_windows, retrains, battery_alerts, alert_mutes, battery_events, quarantined_rows TO %I', role_name);
        IF role_name = 'twin_writer' THEN
            EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO twin_writer', current_database());
            GRANT INSERT, UPDATE ON ev_telemetry, batteries, battery_cycles, battery_predictions TO twin_writer;
            -- Battery states of the database predictor are not readable by the other roles.
            GRANT SELECT, INSERT, UPDATE ON twin_consumers, twin_states TO twin_writer;
            GRANT INSERT, UPDATE ON kept_predictions, battery_observations, evaluation_batteries, evaluation_roles,
                drift_models, drift_windows, retrains TO twin_writer;
            -- Outcomes are deleted when their label is corrected or, of short horizons, by retention; the drift status
            -- of a replaced champion is deleted.
            GRANT INSERT, UPDATE, DELETE ON prediction_outcomes, drift_status TO twin_writer;
            -- What the evaluation knew of a pack is deleted when the pack was replaced.
            GRANT DELETE ON kept_predictions, battery_observations TO twin_writer;
        ELSIF role_name = 'twin_console' THEN
            -- The console writes alerts, mutes and events only.
            GRANT INSERT, UPDATE ON battery_alerts, alert_mutes TO twin_console;
            GRANT INSERT, DELETE ON battery_events TO twin_console;
        END IF;
    END LOOP;
END
$$;
