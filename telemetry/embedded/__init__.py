"""Servers that a fresh machine gets without installing any: PostgreSQL and an MQTT broker."""
