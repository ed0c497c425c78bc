-- Creates hypertables, policies and the hourly continuous aggregate where TimescaleDB is available.  Runs after every
-- migration, so that a database gets them at the first start after TimescaleDB was installed.
-- Plain PostgreSQL: does nothing.  Apache-licensed TimescaleDB: hypertables only; retention stays a command.
DO $$
BEGIN
    -- Creating the extension without its preloaded library ends the connection, so check for a setting of the library.
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
       OR current_setting('timescaledb.disable_load', true) IS NULL THEN
        RETURN;
    END IF;
    CREATE EXTENSION IF NOT EXISTS timescaledb;
    PERFORM create_hypertable('ev_telemetry', by_range('time', INTERVAL '1 day'),
                              if_not_exists => true, migrate_data => true, create_default_indexes => false);
    PERFORM create_hypertable('battery_predictions', by_range('time', INTERVAL '1 day'),
                              if_not_exists => true, migrate_data => true, create_default_indexes => false);

    IF current_setting('timescaledb.license', true) IS DISTINCT FROM 'timescale' THEN
        RETURN;
    END IF;

    -- The compression columns of a table with compressed chunks cannot be configured again.
    IF NOT (SELECT compression_enabled FROM timescaledb_information.hypertables
            WHERE hypertable_name = 'ev_telemetry' AND hypertable_schema = current_schema()) THEN
        ALTER TABLE ev_telemetry SET (timescaledb.compress, timescaledb.compress_segmentby = 'battery_id',
                                      timescaledb.compress_orderby = 'time DESC');
        ALTER TABLE battery_predictions SET (timescaledb.compress, timescaledb.compress_segmentby = 'battery_id',
                                             timescaledb.compress_orderby = 'time DESC, target, role');
    END IF;
    PERFORM add_compression_policy('ev_telemetry', INTERVAL '7 days', if_not_exists => true);
    PERFORM add_compression_policy('battery_predictions', INTERVAL '7 days', if_not_exists => true);
    PERFORM add_retention_policy('ev_telemetry', INTERVAL '30 days', if_not_exists => true);
    PERFORM add_retention_policy('battery_predictions', INTERVAL '30 days', if_not_exists => true);

    IF NOT EXISTS (SELECT FROM timescaledb_information.continuous_aggregates
                   WHERE view_name = 'ev_telemetry_hourly' AND view_schema = current_schema()) THEN
        DROP VIEW ev_telemetry_hourly;
        CREATE MATERIALIZED VIEW ev_telemetry_hourly
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
        SELECT
            time_bucket(INTERVAL '1 hour', time) AS bucket,
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
        GROUP BY 1, 2
        WITH NO DATA;
    END IF;
    -- Late readings are aggregated as long as they are retained; hours whose readings have been deleted are not
    -- refreshed, which would empty them.
    PERFORM add_continuous_aggregate_policy('ev_telemetry_hourly', start_offset => INTERVAL '29 days',
                                            end_offset => INTERVAL '30 minutes',
                                            schedule_interval => INTERVAL '30 minutes', if_not_exists => true);
END
$$;
