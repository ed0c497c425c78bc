"""Telemetry store: PostgreSQL, with TimescaleDB where it is installed."""
