"""An empty MLflow registry on SQLite, as the registry's own tests have it."""

from __future__ import annotations

from tests.training.conftest import empty_registry  # noqa: F401
