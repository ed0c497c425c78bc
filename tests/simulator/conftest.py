"""The simulator is compiled once for all test processes."""

from __future__ import annotations

import pytest

from tests.machine_code import compile_simulator


@pytest.fixture(scope="session", autouse=True)
def compiled_simulator() -> None:
    """Machine code of the simulator, which the test processes share."""
    compile_simulator()
