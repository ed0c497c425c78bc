"""Measured speed: every figure beside a peer that was measured in the same run."""
