"""Property-based check of an HTTP API against its OpenAPI document: no 5xx and no undocumented response."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

_BOUNDED = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
}


def check_against_openapi(
    url: str,
    examples: int,
    *,
    is_exact: bool = True,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> list[str]:
    """Send `examples` valid and as many invalid requests to each operation; returns the labels of the operations.

    Args:
        is_exact: whether the document describes validity completely.  With rules that span several fields, or if one
            invalid battery is answered by an error beside the others, it cannot; then the documented rejection of a
            request that looks valid is accepted, and the documented response to one that looks invalid.
        headers: sent with each request.
        method: only operations of this HTTP method.

    Raises:
        AssertionError: a response was not as documented.
    """
    schema = schemathesis.openapi.from_url(url)
    labels = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if method not in (None, operation.method.upper()):
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
                continue  # has no parameter that could be invalid
            _send(operation.as_strategy(generation_mode=mode), examples, is_exact, headers)()
        labels.append(operation.label)
    return labels


def _send(cases: object, examples: int, is_exact: bool, headers: Mapping[str, str] | None) -> Callable[[], None]:
    @settings(max_examples=examples, **_BOUNDED)  # type: ignore[arg-type]
    @given(case=cases)  # type: ignore[arg-type]
    def send(case: Case) -> None:
        excluded = [] if is_exact else [positive_data_acceptance, negative_data_rejection]
        case.call_and_validate(timeout=30, headers=headers, excluded_checks=excluded)

    return send
