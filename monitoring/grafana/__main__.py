"""`python -m monitoring.grafana`: generates the dashboards' JSON from `monitoring/grafana/panels.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from monitoring.grafana.build import dashboard_json
from monitoring.grafana.panels import DASHBOARDS

FOLDER = Path(__file__).resolve().parent / "dashboards"


def main() -> int:
    """Write one file per dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for spec in DASHBOARDS:
        file = FOLDER / f"{spec.uid}.json"
        file.write_text(dashboard_json(spec), encoding="utf-8")
        print(f"{file.name}: {len(spec.panels)} panels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
