"""`python -m deploy.mlflow_ui`: run the MLflow server at the address in the settings."""

from __future__ import annotations

import os
import sys

from telemetry.settings import USAGE_STATISTICS_OFF, Settings


def main() -> None:
    """Replace this process by `mlflow server`, which then gets the signals and sets the exit code."""
    settings = Settings()
    if settings.mlflow_tracking_uri is not None and settings.mlflow_tracking_uri.startswith("http"):
        sys.exit(f"MLflow is already running at {settings.mlflow_tracking_uri} (TWIN_MLFLOW_TRACKING_URI).")
    settings.var.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", settings.host, "--port", str(settings.mlflow_port)]
    command += ["--backend-store-uri", settings.tracking_uri, "--artifacts-destination", str(settings.artifact_root)]
    command += ["--workers", "1"]
    if settings.mlflow_allowed_hosts is not None:  # replaces MLflow's default
        command += ["--allowed-hosts", f"localhost:*,127.0.0.1:*,{settings.mlflow_allowed_hosts}"]
    # Jobs evaluate language models; they would cost seven more processes.
    environment = {**os.environ, **USAGE_STATISTICS_OFF, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, command, environment)  # noqa: S606 - fixed program


if __name__ == "__main__":
    main()
