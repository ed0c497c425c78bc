"""The REST API conforms to its OpenAPI document for valid and invalid requests."""

from __future__ import annotations

import httpx

from tests.openapi import check_against_openapi

CONTRACT = {
    "/api/battery/status", "/api/battery/detailed", "/api/battery/comparison", "/api/battery/history",
    "/api/battery/latest", "/api/battery/predictions", "/api/battery/stats", "/api/batteries/list", "/api/alerts",
    "/health", "/api/health", "/metrics",
}  # fmt: skip


def test_no_5xx_and_no_undocumented_response(api: httpx.Client) -> None:
    checked = check_against_openapi(f"{api.base_url}/openapi.json", examples=15)
    assert {f"GET {path}" for path in CONTRACT} <= set(checked)
