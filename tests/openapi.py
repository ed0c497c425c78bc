"""Hold an HTTP API against its own OpenAPI document: no 5xx, and no answer that the document does not describe."""

from __future__ import annotations

from collections.abc import Callable

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

_BOUNDED = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
}


def check_against_document(url: str, examples: int, *, says_all: bool = True) -> list[str]:
    """Send `examples` legal and as many illegal requests to each operation; the labels of the operations.

    Args:
        says_all: whether the document can tell every legal request from an illegal one; where a rule spans several
            fields it cannot, and a documented refusal of what looks legal is fine.

    Raises:
        AssertionError: an answer was not as described.
    """
    schema = schemathesis.openapi.from_url(url)
    labels = []
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
                continue  # nothing that could be illegal
            _send(operation.as_strategy(generation_mode=mode), examples, says_all)()
        labels.append(operation.label)
    return labels


def _send(cases: object, examples: int, says_all: bool) -> Callable[[], None]:
    @settings(max_examples=examples, **_BOUNDED)  # type: ignore[arg-type]
    @given(case=cases)  # type: ignore[arg-type]
    def send(case: Case) -> None:
        case.call_and_validate(timeout=30, excluded_checks=[] if says_all else [positive_data_acceptance])

    return send
