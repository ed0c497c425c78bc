"""Data page: validation report of the last pipeline run and its quarantined rows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from nicegui import ui

from console.pages.components import DASH, age, div, empty, panel, table, text
from console.pages.context import PageContext, Visitor
from console.pages.frame import frame
from console.reports import MAX_ROWS_READ, QuarantinedRows
from telemetry.kafka_client import DEAD_LETTER_TOPIC

_REFRESH_S = 10.0
_MAX_CONTENT_LENGTH = 300
REPORT_PATH = "/reports/validation.html"


def data_page(context: PageContext, visitor: Visitor) -> None:
    """Build the page."""
    with frame(context, visitor, "Data", "/data"):
        page = _DataPage(context)
        ui.timer(0.05, page.load, once=True)
        ui.timer(_REFRESH_S, page.load)


class _DataPage:
    def __init__(self, context: PageContext) -> None:
        self._context = context
        self._drawn: object = ()
        with div("row-wrap"):
            text("Data", "title", "h1")
            self._validated_at = text("", "muted")
        self._body = div("stack")

    async def load(self) -> None:
        """Read the reports and redraw them if they changed."""
        reports = self._context.reports
        report = await asyncio.to_thread(reports.validation)
        at = reports.validated_at()
        self._validated_at.set_content("" if at is None else f"validated {age(at)} ago")
        if (report, at) == self._drawn:
            return
        quarantined = await asyncio.to_thread(reports.quarantined_rows)
        self._drawn = (report, at)
        self._body.clear()
        with self._body:
            if report is None:
                with div("panel"):
                    empty("No validation report yet", "Run the pipeline: make repro.")
            else:
                _draw(report, has_page=reports.page.exists())
                _draw_quarantined(report, quarantined, reports.quarantine)
                _draw_rules(report.get("rules", []))
            _draw_dead_letters()


def _draw(report: dict[str, Any], *, has_page: bool) -> None:
    if report.get("refused"):
        with div("notice bad").props('role="alert"'):
            text(f"Not used for training: {report['refused']}")
    with div("tiles"):
        for name, value in (
            ("Source", str(report.get("source", "–"))),
            ("Batteries", f"{report.get('batteries', 0):,}"),
            ("Rows read", f"{report.get('rows_read', 0):,}"),
            ("Accepted", f"{report.get('rows_kept', 0):,}"),
            ("Quarantined", f"{report.get('rows_quarantined', 0):,}"),
        ):
            with div("tile"):
                text(name, "k")
                text(value, "v")
    rules = report.get("rules", [])
    violated = sorted((rule for rule in rules if rule["failed"]), key=lambda rule: -rule["failed"])
    with div("half"):
        with panel("Quarantined rows by rule", "a row may violate several"):
            if violated:
                table(
                    ("Table", "Rule", "Failed", "Share"),
                    [
                        (rule["table"], rule["rule"], f"{rule['failed']:,}", _share(rule["failed"], rule["checked"]))
                        for rule in violated
                    ],
                    numeric=(2, 3),
                )
            else:
                empty("No quarantined rows", f"Every row passed all {len(rules)} rules.")
        with panel("Tables"):
            table(
                ("Table", "Read", "Accepted", "Quarantined"),
                [
                    (part["table"], f"{part['read']:,}", f"{part['kept']:,}", f"{part['quarantined']:,}")
                    for part in report.get("tables", [])
                ],
                numeric=(1, 2, 3),
            )
            if has_page:
                ui.link("Full validation report", REPORT_PATH, new_tab=True)


def _draw_rules(rules: list[dict[str, Any]]) -> None:
    """All rules, folded: those that a row violated are listed above."""
    passed = sum(not rule["failed"] for rule in rules)
    with panel("All validation rules"), ui.element("details"):
        with ui.element("summary").classes("toggle"):
            text(f"Every row passed {passed} of {len(rules)} rules", tag="span")
        table(
            ("Table", "Rule", "Checked", "Failed"),
            [(rule["table"], rule["rule"], f"{rule['checked']:,}", f"{rule['failed']:,}") for rule in rules],
            numeric=(2, 3),
        )


def _draw_quarantined(report: dict[str, Any], quarantined: list[QuarantinedRows] | None, folder: Path) -> None:
    if not report.get("rows_quarantined"):
        return
    with panel("Quarantined rows", "the first of each reason"):
        if not quarantined:
            empty("Quarantine file not found", f"Expected in {folder}: run the pipeline (make repro).")
            return
        for group in quarantined:
            with ui.element("details"):
                with ui.element("summary").classes("toggle"):
                    text(f"{group.table}: {group.reason}", tag="span")
                    text(f" · {group.count:,}", "muted", "span")
                table(
                    ("Source", "Row", "Field", "Value", "Content"),
                    [
                        (
                            row["source_file"],
                            f"{row['row']:,}",
                            row["field"],
                            row["value"] or DASH,
                            _truncated(row["content"]),
                        )
                        for row in group.examples
                    ],
                    numeric=(1,),
                )
        total = report["rows_quarantined"]
        shown = f"Only the first {MAX_ROWS_READ:,} of {total:,} rows were read. " if total > MAX_ROWS_READ else ""
        text(f"{shown}The complete list is {folder / 'quarantine.csv'}.", "muted small")


def _draw_dead_letters() -> None:
    with panel("Dead letters: invalid live messages"):
        text(
            f"Invalid messages go to the Kafka topic {DEAD_LETTER_TOPIC} with reason, invalid field and original "
            "content. The stream scorer counts them by reason in the metric scorer_dead_letters_total.",
            "small",
        )


def _truncated(content: str) -> str:
    return content if len(content) <= _MAX_CONTENT_LENGTH else f"{content[:_MAX_CONTENT_LENGTH]} …"


def _share(failed: int, checked: int) -> str:
    return f"{100 * failed / checked:.2g} %" if checked else "–"
