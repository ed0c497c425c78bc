"""The number that stands for a missing value inside a model, and nowhere else."""

from __future__ import annotations

#: Exact in single precision, and below everything that the contract allows (power reaches -1e7 W), so
#: that one split tells a missing value from every measured one.
SENTINEL = -1.0e9
