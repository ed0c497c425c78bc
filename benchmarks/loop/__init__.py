"""Demonstration of the retraining loop at high speed: hot summer, drift, retraining, promotion (`make loop`).

`recorded_fleet` makes batteries with some days of telemetry, `load_client` sends requests all the time, `demonstration`
runs everything and records what happens, `plot` draws it.
"""
