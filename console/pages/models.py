"""Models page: champion and challenger with their evaluation, promotion, rollback, history, shadow mode and drift."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from nicegui import ui

from console.connection_pool import StoreRow, StoreUnavailableError
from console.model_registry import ModelsView, VersionView
from console.pages.components import DASH, age, button, div, empty, number, panel, table, text, timestamp
from console.pages.context import PageContext, Visitor
from console.pages.forms import form_dialog, text_field
from console.pages.frame import frame
from console.queries import SHADOW_BATTERIES
from features.targets import TARGET_NAMES, TARGETS
from telemetry.errors import TwinError
from training.registry.events import RegisteredVersion
from training.release import model_name

#: Metrics of an evaluation: key, title, and whether it has the unit of the target, is a share, or a plain number.
_METRICS: tuple[tuple[str, str, Literal["unit", "share", "plain"]], ...] = (
    ("mae", "MAE", "unit"),
    ("rmse", "RMSE", "unit"),
    ("r2", "R²", "plain"),
    ("brier", "Brier score", "plain"),
    ("auc", "AUC", "plain"),
    ("skill", "skill", "share"),
)
_REFRESH_S = 15.0
_RETRAINS = 20
#: Versions per target that are shown at first.
_NEWEST = 4
_VERDICTS = {"passed": "NORMAL", "failed": "CRITICAL"}


def models_page(context: PageContext, visitor: Visitor) -> None:
    """Build the page."""
    with frame(context, visitor, "Models", "/models"):
        _ModelsPage(context, visitor)


class _ModelsPage:
    def __init__(self, context: PageContext, visitor: Visitor) -> None:
        self._context = context
        self._visitor = visitor
        self._view: ModelsView | None = None
        self._drawn: ModelsView | None = None
        with div("row-wrap"):
            text("Models", "title", "h1")
            self._release = text("", "muted")
            div("grow")
            self._acts = div("row-wrap")
        self._dialogs = div()  # outside the body, which is redrawn while a dialog is open
        self._result = div()
        self._body = div("stack")
        with self._body:
            text("Loading the model registry; the first time takes a few seconds …", "muted").props('role="status"')
        self._shows_all = False
        with panel("Retrainings", "started by drift or by hand, newest first; times in UTC"):
            self._retrains = div()
        with panel(
            "Shadow mode",
            f"challenger against champion on the newest predictions of up to {SHADOW_BATTERIES} batteries",
        ):
            self._shadow = div()
        with panel("Drift", "features, predictions and errors of the champion against the training data"):
            self._drift = div()
        ui.timer(0.05, self._load, once=True)
        ui.timer(_REFRESH_S, self._load)

    async def _load(self) -> None:
        await self._load_drift()  # these two need the telemetry store only
        await self._load_retrains()
        try:
            self._view = await self._context.models.view()
        except TwinError as error:
            self._drawn = None
            self._acts.clear()  # no decision on outdated data
            self._body.clear()
            with self._body, div("panel"):
                empty("Model registry unavailable", error.sentence)
        else:
            if self._view != self._drawn:
                self._drawn = self._view
                self._draw(self._view)
        await self._load_shadow()

    def _draw(self, view: ModelsView) -> None:
        champion = "no champion yet" if view.release is None else f"Champion: {view.domain}-twin/{view.release}"
        self._release.set_content(champion)
        self._acts.clear()
        with self._acts:
            self._draw_acts(view)
        self._body.clear()
        with self._body:
            if view.release is None and not view.challengers:
                with div("panel"):
                    empty("No model is registered yet", "Run the pipeline: make repro.")
                    for target, reason in view.unavailable.items():
                        text(f"{TARGETS[target].title} is not available: {reason}.", "muted small")
                return
            if view.not_recorded:
                with div("notice").props('role="status"'):
                    text(f"Moved outside of this console, recorded within a minute: {'; '.join(view.not_recorded)}")
            with div("quad"):
                for target in TARGET_NAMES:
                    self._draw_target(target, view)
            with panel("Versions", "each with the newest verdict of the promotion gate; any of them can be promoted"):
                self._draw_versions(view)
            with panel("History", "newest first; times in UTC"):
                table(
                    ("Time", "Event", "Release", "Champions", "By", "Reason"),
                    [
                        (
                            _time(event.time),
                            event.kind,
                            str(event.release or "–"),
                            ", ".join(f"{target} {version}" for target, version in event.champions.items()) or "none",
                            event.by,
                            " · ".join((event.reason, *event.warnings)),
                        )
                        for event in view.events[:30]
                    ],
                )

    def _draw_acts(self, view: ModelsView) -> None:
        if self._visitor.name is None:
            text("Log in to promote or roll back.", "muted small")
            return
        pending = _pending(view)
        if pending:
            button("Promote all challengers …", lambda: self._ask_promotion(view, pending))
        if view.previous is not None:
            back = button(f"Roll back to release {view.previous} …", lambda: self._ask_rollback(view))
            if view.previous_problem is not None:
                back.props("disabled")
                text(
                    f"Release {view.previous} cannot be restored: {view.previous_problem}. "
                    "`python -m training.registry rollback --to` restores an earlier one.",
                    "muted small",
                )

    def _draw_target(self, target: str, view: ModelsView) -> None:
        champion, challenger = view.champions.get(target), view.challengers.get(target)
        columns = [("champion", champion)] + ([("challenger", challenger)] if target in _pending(view) else [])
        with panel(TARGETS[target].title, TARGETS[target].shown.symbol):
            table(
                ("", *(f"{role} {one.version if one else '–'}" for role, one in columns)),
                _metric_rows(target, [one for _, one in columns]),
                numeric=range(1, len(columns) + 1),
            )
            if champion is None:
                text("No champion for this target.", "muted small")
            if target in view.unavailable:
                text(f"Not available from the newest training: {view.unavailable[target]}.", "muted small")
            if target not in _pending(view):
                text("No challenger.", "muted small")

    def _draw_versions(self, view: ModelsView) -> None:
        has_more = False
        with div("scroll"), ui.element("table").classes("plain versions"):
            with ui.element("thead"), ui.element("tr"):
                for name in ("Target", "Version", "Role", "Registered, UTC", "Gate", "Reasons", ""):
                    text(name, tag="th")
            with ui.element("tbody"):
                for target, versions in view.versions.items():
                    newest = list(reversed(versions))
                    shown = newest if self._shows_all else newest[:_NEWEST]
                    has_more = has_more or len(newest) > len(shown)
                    for one in shown:
                        self._draw_version(view, target, one)
        if has_more:
            button("Show all versions", self._show_all)

    def _draw_version(self, view: ModelsView, target: str, one: RegisteredVersion) -> None:
        roles = [
            role
            for role, versions in (("champion", view.champions), ("challenger", view.challengers))
            if target in versions and versions[target].version == one.version
        ]
        with ui.element("tr"):
            text(TARGETS[target].title, tag="td")
            text(str(one.version), "num", "td")
            text(roles[0] if roles else DASH, tag="td")
            text(_time(one.registered_at), "nowrap", "td")
            with ui.element("td"):
                verdict = one.gate or "not evaluated"
                text(verdict, f"chip s-{_VERDICTS.get(verdict, 'STALE')}", "span")
            experiment = f" (experiment {one.experiment})" if one.experiment else ""
            text(f"{one.reasons or DASH}{experiment}", "small", "td")
            with ui.element("td"):
                if self._visitor.name is not None and roles[:1] != ["champion"]:
                    versions = {target: one.version}
                    button("Promote …", lambda: self._ask_promotion(view, versions)).props(
                        f'aria-label="Promote {TARGETS[target].title.lower()} version {one.version}"'
                    )

    async def _show_all(self) -> None:
        self._shows_all, self._drawn = True, None
        await self._load()

    async def _load_retrains(self) -> None:
        try:
            rows = await asyncio.to_thread(self._context.queries.retrains, _RETRAINS)
        except StoreUnavailableError as error:
            self._retrains.clear()
            with self._retrains:
                empty("Retrainings unavailable", error.sentence)
            return
        self._retrains.clear()
        with self._retrains:
            if not rows:
                empty("No retraining yet", "python -m retraining starts one when a champion drifts.")
                return
            table(
                (
                    "Started",
                    "Took",
                    "By",
                    "Reason",
                    "Outcome",
                    "Release",
                    "After promotion",
                    "Data until (event time)",
                    "Details",
                ),
                [
                    (
                        timestamp(row["started_at"]),
                        age(row["started_at"], row["ended_at"]) if row["ended_at"] else "running",
                        row["started_by"],
                        row["reason"],
                        (row["outcome"] or "running").replace("_", " "),
                        " to ".join(str(row[name]) for name in ("release_before", "release_after") if row[name])
                        or DASH,
                        (row["watch"] or DASH).replace("_", " "),
                        timestamp(row["data_until"]),
                        " ".join(filter(None, (row["detail"], row["error"], row["watch_detail"]))) or DASH,
                    )
                    for row in rows
                ],
            )

    async def _load_shadow(self) -> None:
        view = self._view
        if view is None:
            self._shadow.clear()
            with self._shadow:
                empty(
                    "Shadow comparison unavailable", "The versions are not known until the model registry is available."
                )
            return
        compared = {
            target: (model_name(view.domain, target), view.champions[target].version, version)
            for target, version in _pending(view).items()
            if target in view.champions
        }
        try:
            rows = await asyncio.to_thread(self._context.queries.shadow, compared)
        except StoreUnavailableError as error:
            self._shadow.clear()
            with self._shadow:
                empty("Shadow comparison unavailable", error.sentence)
            return
        self._shadow.clear()
        with self._shadow:
            if not any(row["n"] for row in rows) and not self._context.is_shadow_on:
                empty(
                    "Shadow mode is off (TWIN_SHADOW)",
                    "With TWIN_SHADOW=true challengers predict beside the champion, and are compared here.",
                )
                return
            if not rows:
                empty(
                    "No challenger", "Shadow mode compares a challenger with the champion; every target has only one."
                )
                return
            table(
                (
                    "Target", "Versions", "Predictions", "Batteries", "Mean difference", "Mean abs. difference",
                    "Matured labels", "Champion MAE", "Challenger MAE",
                ),
                [
                    (
                        TARGETS[row["target"]].title, f"{row['champion']} / {row['challenger']}", f"{row['n']:,}",
                        f"{row['batteries']:,}", _stored(row, "difference"), _stored(row, "distance"),
                        f"{row['outcomes']:,}", _stored(row, "champion_error"), _stored(row, "challenger_error"),
                    )
                    for row in rows
                ],
                numeric=(2, 3, 4, 5, 6, 7, 8),
            )  # fmt: skip
            text(
                "Readings for which both versions made a prediction; MAE over predictions with a matured label.",
                "muted small",
            )

    async def _load_drift(self) -> None:
        try:
            rows = await asyncio.to_thread(self._context.queries.drift)
        except StoreUnavailableError as error:
            self._drift.clear()
            with self._drift:
                empty("Drift unavailable", error.sentence)
            return
        self._drift.clear()
        with self._drift:
            if not rows:
                empty("No drift data yet", "python -m monitoring computes drift once a champion makes predictions.")
                return
            table(
                (
                    "Target",
                    "Kind",
                    "Status",
                    "Score",
                    "Threshold",
                    "Above threshold",
                    "Window end (event time)",
                    "Windows",
                    "Details",
                ),
                [_drift_row(row) for row in rows],
                numeric=(3, 4, 5),
            )
            text(
                "Windows, oldest first: score in percent of the threshold; ! marks windows above it.",
                "muted small",
            )

    def _ask_promotion(self, view: ModelsView, versions: Mapping[str, int]) -> None:
        async def promote(reason: str) -> list[str]:
            by = self._visitor.name or ""
            return await self._context.models.promote(versions, reason=reason, by=by, expected=view.release)

        named = ", ".join(f"{TARGETS[target].title.lower()} version {version}" for target, version in versions.items())
        replaced = [f"{target} {view.champions[target].version}" for target in versions if target in view.champions]
        detail = f"Replaces {', '.join(replaced) or 'no champion'}, if it passes the gate; otherwise nothing changes."
        self._confirm(f"Promote {named}", detail, "Promote", promote)

    def _ask_rollback(self, view: ModelsView) -> None:
        async def rollback(reason: str) -> list[str]:
            by = self._visitor.name or ""
            return await self._context.models.rollback(reason=reason, by=by, expected=view.release)

        detail = f"All models of release {view.previous} become champion again and replace release {view.release}."
        self._confirm(f"Roll back to release {view.previous}", detail, "Roll back", rollback)

    def _confirm(self, title: str, detail: str, label: str, change: Callable[[str], Awaitable[list[str]]]) -> None:
        async def submit() -> str | None:
            if self._visitor.name is None:
                return "Your login has expired: log in again."
            try:
                sentences = await change(reason.value or "")
            except TwinError as error:
                return error.sentence
            self._show_result(sentences)
            await self._load()
            return None

        with form_dialog(self._dialogs, title, label, submit, working="Running; the gate may take a few seconds …"):
            text(detail, "muted")
            hint = f"recorded in the history with your name, {self._visitor.name}"
            reason = text_field("Reason", hint, focus=True)

    def _show_result(self, sentences: list[str]) -> None:
        self._result.clear()
        with self._result, div("notice").props('role="status"'):
            for sentence in sentences:
                text(sentence)


def _drift_row(row: StoreRow) -> tuple[str, ...]:
    name = f"{row['target']} {row['model_version']}"
    if row["kind"] is None:
        details = row["note"] or f"no complete window since {timestamp(row['since'])}"
        return (name, DASH, "no data yet", DASH, DASH, DASH, DASH, DASH, details)
    moved = ", ".join(name for name, _ in row["moved"] or ())
    return (
        name,
        row["kind"],
        "drift" if row["is_drifting"] else "no drift" if row["score"] <= row["threshold"] else "above threshold",
        number(row["score"], 3),
        number(row["threshold"], 3),
        f"{row['windows_out']} of {row['windows']}",
        timestamp(row["window_end"]),
        " ".join(
            f"{'–' if ratio is None else f'{ratio:.0%}'}{'!' if is_out else ''}"
            for ratio, is_out in zip(row["ratios"] or (), row["are_out"] or (), strict=True)
        ),
        f"{number(row['samples'], 0)} rows, {number(row['batteries'], 0)} batteries"
        f"{f'; moved most: {moved}' if moved else ''}",
    )


def _pending(view: ModelsView) -> dict[str, int]:
    """Challengers that are not champion: version by target."""
    return {
        target: one.version
        for target, one in view.challengers.items()
        if target not in view.champions or view.champions[target].version != one.version
    }


def _metric_rows(target: str, versions: list[VersionView | None]) -> list[tuple[str, ...]]:
    """Table rows with the available metrics, out of fold and on the gate batteries, and the best baseline."""
    rows: list[tuple[str, ...]] = []
    for part, name in (("targets", "out of fold"), ("gate", "gate")):
        entries: list[Mapping[str, Any]] = [{} if one is None else one.evaluation.get(part, {}) for one in versions]
        for key, title, kind in _METRICS:
            if any(entry.get(key) is not None for entry in entries):
                rows.append((f"{title}, {name}", *(_shown(target, entry.get(key), kind) for entry in entries)))
        if any(entry.get("baselines") for entry in entries):
            rows.append((f"best baseline, {name}", *(_baseline(target, entry) for entry in entries)))
    return rows or [("no evaluation stored", *("" for _ in versions))]


def _baseline(target: str, entry: Mapping[str, Any]) -> str:
    key, kind = ("brier", "plain") if "brier" in entry else ("mae", "unit")
    known = [(values[key], name) for name, values in entry.get("baselines", {}).items() if values.get(key) is not None]
    if not known:
        return DASH
    error, name = min(known)
    return f"{_shown(target, error, kind)} ({name.replace('_', ' ')})"


def _shown(target: str, value: float | None, kind: str) -> str:
    """A metric of an evaluation in the unit of this page, with three significant digits."""
    if value is None:
        return DASH
    if kind == "share":
        return f"{100 * value:.0f} %"
    if kind == "plain":
        return f"{value:.3g}"
    shown = TARGETS[target].shown
    return f"{value * shown.factor:.3g} {shown.symbol}".rstrip()


def _stored(row: StoreRow, column: str) -> str:
    """A difference of stored predictions, which have the unit of this page."""
    value, symbol = row[column], TARGETS[row["target"]].shown.symbol
    return DASH if value is None else f"{value:.3g} {symbol}".rstrip()


def _time(rfc3339: str) -> str:
    return rfc3339.replace("T", " ").removesuffix("Z")
