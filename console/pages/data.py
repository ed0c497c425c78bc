"""The data: what the pipeline read, kept and set aside, and why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from nicegui import ui

from console.pages.components import DASH, age, div, empty, panel, table, text
from console.pages.context import Context, Visitor
from console.pages.frame import frame
from console.reports import LOOKED_AT, Rejected
from telemetry.kafka_client import DEAD_LETTER_TOPIC

_REFRESH_S = 10.0
_MOST_CONTENT = 300
REPORT_PATH = "/reports/validation.html"


def data_page(context: Context, visitor: Visitor) -> None:
    """Draw it."""
    with frame(context, visitor, "Data", "/data"):
        page = _Data(context)
        ui.timer(0.05, page.load, once=True)
        ui.timer(_REFRESH_S, page.load)


class _Data:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._seen: object = ()
        with div("row-wrap"):
            text("Data", "title", "h1")
            self._sub = text("", "muted")
        self._body = div("stack")

    async def load(self) -> None:
        """Read the reports and draw them where they are new."""
        reports = self._context.reports
        report = await asyncio.to_thread(reports.validation)
        at = reports.validated_at()
        self._sub.set_content("" if at is None else f"validated {age(at)} ago")
        if (report, at) == self._seen:
            return
        rejected = await asyncio.to_thread(reports.rejected)
        self._seen = (report, at)
        self._body.clear()
        with self._body:
            if report is None:
                with div("panel"):
                    empty("Nothing has been validated yet", "Run the pipeline: make repro.")
            else:
                _draw(report, has_page=reports.page.exists())
                _draw_rejected(report, rejected, reports.quarantine)
            _draw_letters()


def _draw(report: dict[str, Any], *, has_page: bool) -> None:
    if report.get("refused"):
        with div("notice bad").props('role="alert"'):
            text(f"Nothing was learned from it: {report['refused']}")
    with div("tiles"):
        for name, value in (
            ("Source", str(report.get("source", "–"))),
            ("Batteries", f"{report.get('batteries', 0):,}"),
            ("Rows read", f"{report.get('rows_read', 0):,}"),
            ("Kept", f"{report.get('rows_kept', 0):,}"),
            ("Quarantined", f"{report.get('rows_quarantined', 0):,}"),
        ):
            with div("tile"):
                text(name, "k")
                text(value, "v")
    rules = report.get("rules", [])
    broken = sorted((rule for rule in rules if rule["failed"]), key=lambda rule: -rule["failed"])
    with div("half"):
        with panel("Quarantine by rule", "a row may break several"):
            if broken:
                table(
                    ("Table", "Rule", "Failed", "Share"),
                    [
                        (rule["table"], rule["rule"], f"{rule['failed']:,}", _share(rule["failed"], rule["checked"]))
                        for rule in broken
                    ],
                    numeric=(2, 3),
                )
            else:
                empty("Nothing was set aside", f"All {len(rules)} rules held for every row.")
        with panel("Tables"):
            table(
                ("Table", "Read", "Kept", "Quarantined"),
                [
                    (part["table"], f"{part['read']:,}", f"{part['kept']:,}", f"{part['quarantined']:,}")
                    for part in report.get("tables", [])
                ],
                numeric=(1, 2, 3),
            )
            if has_page:
                ui.link("The whole validation report", REPORT_PATH, new_tab=True)
    with panel("Every rule", f"{len(rules)} of them"):
        table(
            ("Table", "Rule", "Checked", "Failed"),
            [(rule["table"], rule["rule"], f"{rule['checked']:,}", f"{rule['failed']:,}") for rule in rules],
            numeric=(2, 3),
        )


def _draw_rejected(report: dict[str, Any], rejected: list[Rejected] | None, folder: Path) -> None:
    if not report.get("rows_quarantined"):
        return
    with panel("Rows that were set aside", "the first of each reason"):
        if not rejected:
            empty("The rows are not here", f"They are in {folder}, where the pipeline ran: make repro.")
            return
        for one in rejected:
            with ui.element("details"):
                with ui.element("summary").classes("fold"):
                    text(f"{one.table}: {one.reason}", tag="span")
                    text(f" · {one.count:,}", "muted", "span")
                table(
                    ("From", "Row", "Field", "Value", "Content"),
                    [
                        (
                            row["source_file"],
                            f"{row['row']:,}",
                            row["field"],
                            row["value"] or DASH,
                            _cut(row["content"]),
                        )
                        for row in one.examples
                    ],
                    numeric=(1,),
                )
        total = report["rows_quarantined"]
        shown = f"Of {total:,} rows the first {LOOKED_AT:,} were looked at. " if total > LOOKED_AT else ""
        text(f"{shown}All of them are in {folder / 'quarantine.csv'}.", "muted small")


def _draw_letters() -> None:
    with panel("Live messages that are no reading"):
        text(
            f"They go to the Kafka topic {DEAD_LETTER_TOPIC}, each with its reason, the field at fault and what was "
            "sent. The stream scorer counts them by reason in its metric scorer_dead_letters_total.",
            "small",
        )


def _cut(content: str) -> str:
    return content if len(content) <= _MOST_CONTENT else f"{content[:_MOST_CONTENT]} …"


def _share(failed: int, checked: int) -> str:
    return f"{100 * failed / checked:.2g} %" if checked else "–"
