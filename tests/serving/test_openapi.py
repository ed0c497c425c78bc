"""Responses of the service conform to its OpenAPI document for generated requests."""

from __future__ import annotations

import httpx

from tests.openapi import check_against_openapi


def test_no_5xx_and_no_undocumented_response(service: httpx.Client) -> None:
    checked = check_against_openapi(f"{service.base_url}/openapi.json", examples=15, is_exact=False)
    assert "POST /predict" in checked
