"""What a page is drawn from, and who looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from console.access import Access, session_of
from console.alerts.alert_store import AlertStore
from console.history import Histories
from console.live_updates import Live
from console.model_registry import RegistryProcess
from console.queries import Queries
from console.reports import Reports


@dataclass(frozen=True)
class Context:
    """Everything that pages ask."""

    access: Access
    live: Live
    queries: Queries
    histories: Histories
    alerts: AlertStore
    models: RegistryProcess
    reports: Reports


@dataclass(frozen=True)
class Visitor:
    """Whoever opened a page, by the session that the browser sent along then."""

    access: Access
    session: str | None
    has_token: bool = False

    @classmethod
    def of(cls, access: Access, headers: Mapping[str, str]) -> Visitor:
        """The visitor of a request."""
        return cls(access, session_of(headers), has_token=access.bears_token(headers))

    @property
    def name(self) -> str | None:
        """Who may change something; None who may not.  Asked anew each time: a session ends."""
        return self.access.name_of(self.session)

    @property
    def may_look(self) -> bool:
        """Whether the page may go on: where reading is guarded, not beyond the session's end."""
        return not self.access.guards_reading or self.has_token or self.name is not None
