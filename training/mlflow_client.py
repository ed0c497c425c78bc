"""Creates the MLflow client and its experiments, and records how a run ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from telemetry.errors import TwinError
from telemetry.settings import USAGE_STATISTICS_OFF, Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


#: How to compare runs, for descriptions in MLflow's web page.
HOW_TO_COMPARE = (
    "To compare a forest with its baselines, filter the runs by `tags.compare = 'rul'` (or another target) and sort by "
    "`mae` (a probability: `brier`), out of fold, or by `gate.mae`, on the gate batteries. `skill` is the error "
    "reduction against the best baseline: 0 for that baseline, 1 for no error. `fold.mae` has a step for each fold."
)
_EXPERIMENT_TAGS = {
    "mlflow.note.content": f"{HOW_TO_COMPARE} The child runs of a tuning are its trials, with `error`.",
    # MLflow opens such an experiment on its runs instead of on traces of language models.
    "mlflow.experimentKind": "custom_model_development",
}
#: Any path that MLflow does not exempt from its check of the Host header, as it does /health.
_CHECKED_PATH = "/api/2.0/mlflow/experiments/get?experiment_id=0"
_INVALID_HOST = "Invalid Host header"
_CHECK_TIMEOUT_S = 10.0


def connect(settings: Settings, *, fail_fast: bool = False) -> MlflowClient:
    """Client of the tracking server and registry in `settings`; creates the database where there is none.

    Args:
        fail_fast: time out after 10 s and retry once, for services, which poll again.  Otherwise MLflow's own limits
            hold, seven times two minutes, which suits a training of hours.  It holds for the whole process.

    Raises:
        TwinError: the server refuses the name by which it is reached.
    """
    os.environ.update(USAGE_STATISTICS_OFF)
    if fail_fast:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient  # the import takes three seconds, so only where a client is needed

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It warns of every environment without pip, and `uv` creates environments without it.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    # Callers report an unavailable registry once; urllib3 would log every attempt, each second.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    if settings.tracking_uri.startswith("http"):
        _check_name(settings.tracking_uri)
    if settings.mlflow_tracking_uri is None:
        settings.var.mkdir(parents=True, exist_ok=True)
    return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def _check_name(address: str) -> None:
    """Raise the `TwinError` of `connect`; any other fault is left to the first use of the client."""
    import httpx

    try:
        response = httpx.get(address.rstrip("/") + _CHECKED_PATH, timeout=_CHECK_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL):
        return
    if response.status_code == httpx.codes.FORBIDDEN and _INVALID_HOST in response.text:
        name = urlsplit(address).netloc.rpartition("@")[2]
        raise TwinError(
            f"MLflow refuses requests to {name} ({_INVALID_HOST}): start `mlflow server` with --allowed-hosts "
            f"{name},localhost:*,127.0.0.1:* (or MLFLOW_SERVER_ALLOWED_HOSTS), or set TWIN_MLFLOW_TRACKING_URI to a "
            "name that it allows",
            field="mlflow_tracking_uri",
            value=name,
        )


def experiment_id(client: MlflowClient, settings: Settings, domain: str) -> str:
    """Id of the experiment of the model namespace `domain`, which is created if it does not exist."""
    found = client.get_experiment_by_name(domain)
    if found is not None:
        number = str(found.experiment_id)
    else:
        location = None if settings.mlflow_tracking_uri else (settings.artifact_root / domain).as_uri()
        number = str(client.create_experiment(domain, artifact_location=location))
    present = {} if found is None else found.tags
    for key, value in _EXPERIMENT_TAGS.items():
        if key not in present:
            client.set_experiment_tag(number, key, value)
    return number


@contextmanager
def record_run_status(
    client: MlflowClient, run_id: str, *, stopped_by: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Set the status of the run `run_id` on exit: finished, failed, or killed if it was interrupted.

    Args:
        stopped_by: exceptions that count as killed instead of failed: the run was stopped on request.
    """
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception as error:
        status = "KILLED" if isinstance(error, stopped_by) else "FAILED"
        raise
    finally:
        client.set_terminated(run_id, status)
