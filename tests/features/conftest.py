"""Fixtures of the feature tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest_features import cells, no_cycles, no_readings  # noqa: F401
