"""Shared dependencies of the pages, and the visitor of a page with its access rights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from console.access import Access, session_cookie
from console.alerts.alert_store import AlertStore
from console.events import BatteryEvents
from console.history import HistoryQueries
from console.live_updates import LiveUpdates
from console.model_registry import RegistryProcess
from console.queries import Queries
from console.reasons import ReasonSource
from console.reports import PipelineReports


@dataclass(frozen=True)
class PageContext:
    """Objects from which the pages read, and the setting `TWIN_SHADOW`."""

    access: Access
    live: LiveUpdates
    queries: Queries
    histories: HistoryQueries
    alerts: AlertStore
    events: BatteryEvents
    models: RegistryProcess
    reports: PipelineReports
    reasons: ReasonSource
    is_shadow_on: bool


@dataclass(frozen=True)
class Visitor:
    """Visitor of a page, identified by the login session of the request that opened it."""

    access: Access
    session: str | None
    has_token: bool = False

    @classmethod
    def of(cls, access: Access, headers: Mapping[str, str]) -> Visitor:
        """The visitor of a request."""
        return cls(access, session_cookie(headers), has_token=access.has_valid_token(headers))

    @property
    def name(self) -> str | None:
        """Name of the logged-in user, None without a login.  Checked at each access, because sessions expire."""
        return self.access.session_name(self.session)

    @property
    def may_read(self) -> bool:
        """Whether the page may show data: if reading requires a login, only until the session expires."""
        return not self.access.read_requires_login or self.has_token or self.name is not None
