"""Telemetry as the project knows it: the contract, the sources that are read into it and the stores it is written to."""
