"""Telemetry as the project knows it: the contract, the sources that it is read from and its stores."""
