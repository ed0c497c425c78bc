"""`python -m serving`: the prediction service on the address in the settings, until it is stopped."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from telemetry.settings import NO_TELEMETRY, Settings

_ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Become `bentoml serve`; signals and the exit code are its own."""
    settings = Settings()
    environment = {
        # BentoML empties the folder of the workers' metrics there when it starts: not to be shared.
        "BENTOML_HOME": str((settings.var / "bentoml" / str(settings.service_port)).resolve()),
        **os.environ,
        **NO_TELEMETRY,
        "TWIN_VAR": str(settings.var.resolve()),
    }
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:BatteryTwin"]
    command += ["--host", settings.host, "--port", str(settings.service_port), "--working-dir", str(_ROOT)]
    os.chdir(_ROOT)
    os.execve(sys.executable, command, environment)  # noqa: S606 - a fixed program


if __name__ == "__main__":
    main()
