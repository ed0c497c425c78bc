#!/bin/sh
# Creates the databases and their roles, none of them a superuser.  Runs once, as superuser, on a new server.
set -eu
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname telemetry \
     --set twin_password="$TWIN_DB_PASSWORD" --set writer_password="$TWIN_WRITER_DB_PASSWORD" \
     --set reader_password="$TWIN_READER_DB_PASSWORD" \
     --set mlflow_password="$TWIN_MLFLOW_DB_PASSWORD" --set console_password="$TWIN_CONSOLE_DB_PASSWORD" <<'SQL'
-- Only where the server has loaded TimescaleDB; on plain PostgreSQL the migrations create the same names without it.
SELECT 'CREATE EXTENSION IF NOT EXISTS timescaledb'
 WHERE current_setting('timescaledb.disable_load', true) IS NOT NULL \gexec
CREATE ROLE twin LOGIN PASSWORD :'twin_password';
-- The owner may not create roles, so these must exist before the first migration.
SELECT format('CREATE ROLE %I NOLOGIN', name) FROM unnest(ARRAY['twin_writer', 'twin_reader', 'twin_console']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
CREATE ROLE writer LOGIN PASSWORD :'writer_password' IN ROLE twin_writer;
CREATE ROLE grafana LOGIN PASSWORD :'reader_password' IN ROLE twin_reader;
CREATE ROLE console LOGIN PASSWORD :'console_password' IN ROLE twin_console;
ALTER DATABASE telemetry OWNER TO twin;
REVOKE ALL ON DATABASE telemetry FROM PUBLIC;
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE mlflow OWNER mlflow TEMPLATE template0;
REVOKE ALL ON DATABASE mlflow FROM PUBLIC;
SQL
