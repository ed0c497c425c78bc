"""Benchmarks: speed measurements, each with a reference measured in the same run."""
