"""What the registry holds: versions with their verdicts, aliases, and the events that record their changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["register", "promote", "rollback", "shadow", "outside"]


@dataclass(frozen=True)
class Aliases:
    """Versions that the aliases of a model namespace point at.

    Attributes:
        champions, challengers: version by target; a target without the alias is absent.
        release: version of the champion release, None if there is none.
    """

    champions: Mapping[str, int] = field(default_factory=dict)
    challengers: Mapping[str, int] = field(default_factory=dict)
    release: int | None = None


@dataclass(frozen=True)
class RegisteredVersion:
    """A registered model version and the gate's verdict on it.

    Attributes:
        registered_at: RFC 3339, UTC.
        gate: the newest verdict; None if the gate has not evaluated it.
        reasons: of the verdict, one text.
        experiment: name of the DVC experiment that registered it, None for the pipeline and for retraining.
        source: the data source's name.
    """

    target: str
    version: int
    registered_at: str
    gate: str | None = None
    reasons: str = ""
    experiment: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class RegistryEvent:
    """One change of aliases with the aliases afterwards.

    Attributes:
        time: RFC 3339, UTC.
        kind: what was done; "shadow" if only challenger aliases were set, for a comparison in shadow, "outside" for
            aliases that were changed by other means than this package.
        after: the aliases afterwards.
        forced: promoted although a model failed the gate.
        warnings: objections, one sentence each.
    """

    time: str
    kind: Kind
    by: str
    reason: str
    after: Aliases
    forced: bool = False
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RegistryEvent:
        """The event serialised in `text`."""
        content: dict[str, Any] = json.loads(text)
        content["after"] = Aliases(**content["after"])
        content["warnings"] = tuple(content["warnings"])
        return cls(**content)
