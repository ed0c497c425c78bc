"""What the pipeline reported: `validation.json` and `metrics.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reports:
    """Reads the folder anew each time: the pipeline may run meanwhile."""

    folder: Path

    def validation(self) -> dict[str, Any] | None:
        """What was read, kept and set aside; None before the first run, or while the file is being written."""
        return self._read("validation.json")

    def metrics(self) -> dict[str, Any] | None:
        """How good the models are; None before the first run."""
        return self._read("metrics.json")

    def validated_at(self) -> datetime | None:
        """When the data were last validated."""
        file = self.folder / "validation.json"
        return datetime.fromtimestamp(file.stat().st_mtime, UTC) if file.exists() else None

    @property
    def page(self) -> Path:
        """The validation report for people."""
        return self.folder / "validation.html"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content
