"""A registry with a small released forest for each target, as the service's tests have it."""

from __future__ import annotations

from tests.serving.conftest import registry  # noqa: F401
