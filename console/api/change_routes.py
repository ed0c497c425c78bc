"""REST routes that change something, with the routes to read it: stored alerts, mutes, events, and the model registry.

Reading is open as for the other paths; a change needs the token or a login.  Each handler does what a page does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from console.access import Access, TooManyWrongTokensError
from console.alerts.alert_store import AlertChangedError, AlertFilter, AlertStore
from console.api import request_bodies, responses
from console.api.error_responses import ApiError, ErrorResponse
from console.api.routes import READ_RESPONSES, BatteryId
from console.connection_pool import StoreRow, StoreUnavailableError
from console.events import BatteryEvents, EventExistsError
from console.model_registry import ModelsView, RegistryError, RegistryProcess
from features.targets import TARGETS
from telemetry.errors import TwinError
from training.release import model_name, twin_name

_T = TypeVar("_T")
_MAX_ALERTS = 1_000
_CHANGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    **READ_RESPONSES,
    400: {"model": ErrorResponse, "description": "The body is not JSON in UTF-8"},
    401: {"model": ErrorResponse, "description": "Neither token nor login"},
    429: {"model": ErrorResponse, "description": "Too many wrong tokens from this address"},
    404: {"model": ErrorResponse, "description": "There is no such alert, mute, battery or version"},
    409: {"model": ErrorResponse, "description": "The state is not the one that you saw: read it again"},
}
_REGISTRY_RESPONSES: dict[int | str, dict[str, Any]] = {
    **READ_RESPONSES,
    503: {"model": ErrorResponse, "description": "Model registry unavailable"},
}
#: Documents the token in OpenAPI; `Access` checks it.
_BEARER = HTTPBearer(auto_error=False, description="the token of the console")
#: Largest value of a `bigint`.
AlertId = Annotated[int, Path(ge=1, le=2**63 - 1, description="`alert_id` of a stored alert")]


@dataclass(frozen=True)
class ChangeRoutes:
    """Handlers of the REST paths; FastAPI runs those that are not coroutines in a worker thread."""

    access: Access
    alerts: AlertStore
    events: BatteryEvents
    models: RegistryProcess

    def router(self) -> APIRouter:
        """Router with all paths."""
        router = APIRouter(prefix="/api")
        get: Any = router.get
        get("/alerts/stored", response_model=responses.StoredAlerts, tags=["alerts"], responses=READ_RESPONSES)(
            self.stored_alerts
        )
        get("/alerts/mutes", response_model=responses.Mutes, tags=["alerts"], responses=READ_RESPONSES)(self.mutes)
        get("/models", response_model=responses.Models, tags=["models"], responses=_REGISTRY_RESPONSES)(
            self.model_versions
        )
        for path, handler, model, tag in (
            ("/alerts/{alert_id}/acknowledge", self.acknowledge, responses.Acknowledged, "alerts"),
            ("/alerts/mute", self.mute, responses.Mutes, "alerts"),
            ("/alerts/unmute", self.unmute, responses.Mutes, "alerts"),
            ("/battery/events", self.enter_event, responses.BatteryEventList, "battery"),
            ("/models/promote", self.promote, responses.ReleaseChange, "models"),
            ("/models/rollback", self.rollback, responses.ReleaseChange, "models"),
        ):
            router.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=model,
                tags=[tag],
                responses=_CHANGE_RESPONSES,
                dependencies=[Depends(_BEARER), Depends(self._require_authorization)],
            )
        return router

    def stored_alerts(
        self,
        battery_id: BatteryId = None,
        limit: Annotated[int, Query(ge=1, le=_MAX_ALERTS, description="maximum number per state")] = 100,
    ) -> dict[str, Any]:
        """Alerts with their state, as the page shows them: open and muted ones, CRITICAL first, then resolved ones."""
        rows = self.alerts.alerts(AlertFilter(battery_id), limit=limit)
        return {"alerts": [_alert(row) for row in rows], "count": len(rows)}

    def mutes(self) -> dict[str, Any]:
        """Active mutes, in order of their end."""
        rows = self.alerts.mutes()
        return {"mutes": rows, "count": len(rows)}

    async def model_versions(self) -> dict[str, Any]:
        """Champions, challengers and every version with the verdict of the gate, and the history."""
        return _models(await _registry(self.models.view()))

    def acknowledge(self, alert_id: AlertId, change: request_bodies.Acknowledgement) -> dict[str, Any]:
        """Acknowledge an open alert; 409 if it was resolved, acknowledged, or changed its severity."""
        _stored(
            lambda: self.alerts.acknowledge({alert_id: change.severity}, by=change.by, note=change.note),
            missing="alert_id",
        )
        return {"alert_id": alert_id, "acknowledged_by": change.by.strip()}

    def mute(self, change: request_bodies.NewMute) -> dict[str, Any]:
        """Mute alerts of a battery, a rule or both; without either, all alerts.  They are still tracked."""
        _stored(
            lambda: self.alerts.mute(
                change.battery_id, change.rule, hours=change.hours, by=change.by, reason=change.reason
            )
        )
        return self.mutes()

    def unmute(self, change: request_bodies.MuteScope) -> dict[str, Any]:
        """End the active mutes with exactly this battery and rule."""
        if not _stored(lambda: self.alerts.unmute(change.battery_id, change.rule)):
            raise ApiError(404, "there is no active mute with this battery_id and rule: see /api/alerts/mutes")
        return self.mutes()

    def enter_event(self, change: request_bodies.NewEvent) -> dict[str, Any]:
        """Enter what happened to a battery, also later; 409 if it was entered before."""
        _stored(
            lambda: self.events.enter(change.battery_id, change.time, change.kind, change.value, change.by.strip()),
            missing="battery_id",
        )
        return {"battery_id": change.battery_id, "events": self.events.listed(change.battery_id)}

    async def promote(self, change: request_bodies.Promotion) -> dict[str, Any]:
        """Promote the versions that pass the gate, in one new release; `messages` says why others were not promoted."""
        before = await _registry(self.models.view())
        messages = await _registry(
            self.models.promote(
                {**change.versions}, reason=change.reason, by=change.by, expected=change.expected_release
            )
        )
        return await self._outcome(before, messages)

    async def rollback(self, change: request_bodies.Rollback) -> dict[str, Any]:
        """Make the release before the current one champion again; 409 if there is none or the champion has moved."""
        before = await _registry(self.models.view())
        messages = await _registry(
            self.models.rollback(reason=change.reason, by=change.by, expected=change.expected_release)
        )
        return await self._outcome(before, messages)

    async def _outcome(self, before: ModelsView, messages: list[str]) -> dict[str, Any]:
        after = await _registry(self.models.view())
        return {"release": after.release, "changed": after.release != before.release, "messages": messages}

    def _require_authorization(self, request: Request) -> None:
        try:
            is_authorized = self.access.is_authorized(request.headers, request.client.host if request.client else "")
        except TooManyWrongTokensError as error:
            raise ApiError(429, error.sentence, field="token") from None
        if not is_authorized:
            raise ApiError(401, "send the token as 'Authorization: Bearer ...', or log in", field="token")


def _stored(change: Callable[[], _T], missing: str = "") -> _T:
    """Result of `change` of the store; its errors with their HTTP status, 404 for the field `missing`."""
    try:
        return change()
    except StoreUnavailableError:
        raise
    except TwinError as error:
        status = (
            409 if isinstance(error, AlertChangedError | EventExistsError) else 404 if error.field == missing else 422
        )
        raise ApiError(status, error.sentence, field=error.field, value=error.value) from None


async def _registry(work: Any) -> Any:
    """Result of a call of the model registry; its errors with their HTTP status."""
    try:
        return await work
    except RegistryError as error:
        raise ApiError(error.status, error.sentence, field=error.field, value=error.value) from None


def _alert(row: StoreRow) -> dict[str, Any]:
    return {name: row.get(name) for name in responses.StoredAlert.model_fields}


def _models(view: ModelsView) -> dict[str, Any]:
    return {
        "domain": view.domain,
        "release": None if view.release is None else f"{twin_name(view.domain)}/{view.release}",
        "release_version": view.release,
        "previous_release_version": view.previous,
        "targets": [
            {
                "target": target,
                "model": model_name(view.domain, target),
                "title": TARGETS[target].title,
                "versions": [
                    {
                        "version": one.version,
                        "role": _role(view, target, one.version),
                        "registered_at": one.registered_at,
                        "gate": one.gate,
                        "reasons": one.reasons,
                    }
                    for one in reversed(versions)
                ],
            }
            for target, versions in view.versions.items()
        ],
        "history": [
            {
                "time": event.time,
                "kind": event.kind,
                "by": event.by,
                "reason": event.reason,
                "release_version": event.release,
                "warnings": event.warnings,
            }
            for event in view.events
        ],
    }


def _role(view: ModelsView, target: str, version: int) -> Literal["champion", "challenger"] | None:
    for role, versions in (("champion", view.champions), ("challenger", view.challengers)):
        if target in versions and versions[target].version == version:
            return role  # type: ignore[return-value]
    return None
