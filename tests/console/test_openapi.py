"""The console's OpenAPI document holds, whatever is sent."""

from __future__ import annotations

import httpx

from tests.openapi import check_against_document

CONTRACT = {
    "/api/battery/status", "/api/battery/detailed", "/api/battery/comparison", "/api/battery/history",
    "/api/battery/latest", "/api/battery/predictions", "/api/battery/stats", "/api/batteries/list", "/api/alerts",
    "/health", "/api/health", "/metrics",
}  # fmt: skip


def test_no_5xx_and_no_undocumented_answer(api: httpx.Client) -> None:
    checked = check_against_document(f"{api.base_url}/openapi.json", examples=15)
    assert {f"GET {path}" for path in CONTRACT} <= set(checked)
