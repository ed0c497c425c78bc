"""Command `python -m serving`: runs the prediction service on the configured address until it is stopped."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from telemetry.settings import USAGE_STATISTICS_OFF, Settings

_ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Replace this process with `bentoml serve`, which then handles signals and sets the exit code."""
    settings = Settings()
    environment = {
        # BentoML empties the folder of the worker metrics in its home at start: one home for each port.
        "BENTOML_HOME": str((settings.var / "bentoml" / str(settings.service_port)).resolve()),
        **os.environ,
        **USAGE_STATISTICS_OFF,
        "TWIN_VAR": str(settings.var.resolve()),
    }
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:BatteryTwin"]
    command += ["--host", settings.host, "--port", str(settings.service_port), "--working-dir", str(_ROOT)]
    os.chdir(_ROOT)
    os.execve(sys.executable, command, environment)  # noqa: S606 - a fixed program


if __name__ == "__main__":
    main()
