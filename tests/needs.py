"""Skip what needs a server that is not installed."""

from __future__ import annotations

import pytest

from deploy.servers.install import Component


def need(*components: Component) -> None:
    """Skip the test, naming what is missing, unless all are installed."""
    for component in components:
        if reason := component.missing():
            pytest.skip(reason)
