"""Where telemetry is kept: PostgreSQL, with TimescaleDB where it is installed."""
