"""Runs every query of the committed dashboards on a real Prometheus and database, as Grafana does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg2

DASHBOARDS = Path(__file__).resolve().parents[2] / "monitoring" / "grafana" / "dashboards"
_SPANS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class Target:
    """One query of one panel in the JSON."""

    dashboard: str
    panel: str
    query: dict[str, Any]
    look_back: str

    @property
    def text(self) -> str:
        return str(self.query.get("expr") or self.query["rawSql"])


def targets() -> Iterator[Target]:
    for file in sorted(DASHBOARDS.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        for panel in content["panels"]:
            for query in panel.get("targets", []):
                yield Target(content["uid"], panel["title"], query, panel.get("timeFrom", "15m"))


def points(target: Target, prometheus_url: str, dsn: str, battery_ids: Sequence[str]) -> int:
    """Number of points or rows that Grafana gets; NaN does not count."""
    if "expr" in target.query:
        return _prometheus_points(target, prometheus_url, battery_ids)
    return _sql_rows(target, dsn, battery_ids)


def _prometheus_points(target: Target, url: str, battery_ids: Sequence[str]) -> int:
    query = target.text.replace("$battery", "|".join(battery_ids))
    now = datetime.now(UTC).timestamp()
    if target.query.get("range"):
        parameters = {"query": query, "start": now - 900, "end": now, "step": 5}
        response = httpx.get(f"{url}/api/v1/query_range", params=parameters, trust_env=False).json()
    else:
        response = httpx.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False).json()
    assert response["status"] == "success", response
    series = response["data"]["result"]
    values = [value for one in series for _, value in one.get("values", [one.get("value")])]
    return sum(value != "NaN" for value in values)


def _sql_rows(target: Target, dsn: str, battery_ids: Sequence[str]) -> int:
    until = datetime.now(UTC)
    amount, span = int(target.look_back[:-1]), _SPANS[target.look_back[-1]]
    since = until - timedelta(**{span: amount})
    sql = target.text.replace("${battery:sqlstring}", ",".join(f"'{name}'" for name in battery_ids))
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN '{since.isoformat()}' AND '{until.isoformat()}'", sql)
    assert "$" not in sql, sql
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE twin_reader")
            cursor.execute(sql)
            return len(cursor.fetchall())
    finally:
        connection.close()
