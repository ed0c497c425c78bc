"""Skip tests whose servers are not installed."""

from __future__ import annotations

import pytest

from deploy.servers.install import Component


def need(*components: Component) -> None:
    """Skip the test with the reason unless all components are installed."""
    for component in components:
        if reason := component.missing():
            pytest.skip(reason)
