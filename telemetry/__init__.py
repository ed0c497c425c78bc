"""Telemetry: data contract, sources, sinks, spool, stores, validation and embedded servers."""
