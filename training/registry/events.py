"""What happened in the registry: one event for each change of who is champion or challenger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["register", "promote", "rollback", "shadow", "outside"]


@dataclass(frozen=True)
class Aliases:
    """Where the aliases of a domain point.

    Attributes:
        champions, challengers: version by target; a target without the alias is absent.
        release: version of the release that serves, None where there is none.
    """

    champions: Mapping[str, int] = field(default_factory=dict)
    challengers: Mapping[str, int] = field(default_factory=dict)
    release: int | None = None


@dataclass(frozen=True)
class RegistryEvent:
    """One change and the state that it left behind.

    Attributes:
        time: RFC 3339, UTC.
        kind: what was done; "shadow" where only challengers were pointed at what shall be compared, "outside" for
            aliases that were found moved by other means.
        after: the aliases afterwards.
        forced: promoted although the gate said no.
        warnings: what speaks against it.
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
        """The event in `text`."""
        content: dict[str, Any] = json.loads(text)
        content["after"] = Aliases(**content["after"])
        content["warnings"] = tuple(content["warnings"])
        return cls(**content)
