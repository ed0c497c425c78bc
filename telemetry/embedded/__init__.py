"""Embedded PostgreSQL and MQTT servers for machines that have none installed."""
