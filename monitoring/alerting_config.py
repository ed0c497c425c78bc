"""Prints the Prometheus and Alertmanager configuration that compose mounts with other addresses filled in.

python -m monitoring.alerting_config prometheus --target twin=127.0.0.1:9091 --alertmanager 127.0.0.1:9093
python -m monitoring.alerting_config alertmanager --webhook http://127.0.0.1:5002/alerts
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import HttpUrl, TypeAdapter, ValidationError

from telemetry.command import exit_code
from telemetry.errors import TwinError

FOLDER = Path(__file__).resolve().parent
PROMETHEUS_FILE = FOLDER / "prometheus" / "prometheus.yml"
ALERTS_FILE = FOLDER / "prometheus" / "alerts.yml"
ALERTMANAGER_FILE = FOLDER / "alertmanager" / "alertmanager.yml"


def prometheus_config(targets: Mapping[str, str], alertmanager: str | None = None) -> dict[str, Any]:
    """`prometheus.yml` with only the jobs in `targets`, each at its address (host:port), and an absolute rule path.

    Raises:
        TwinError: an unknown job.
    """
    config: dict[str, Any] = _read(PROMETHEUS_FILE)
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    for name in targets:
        if name not in jobs:
            raise TwinError(f"Unknown job {name}: use one of {', '.join(jobs)}.", field="--target", value=name)
    config["scrape_configs"] = [
        {key: value for key, value in jobs[name].items() if not key.endswith("_sd_configs")}
        | {"static_configs": [{"targets": [address]}]}
        for name, address in targets.items()
    ]
    config["rule_files"] = [str(ALERTS_FILE)]
    managers = [] if alertmanager is None else [{"static_configs": [{"targets": [alertmanager]}]}]
    config["alerting"] = {"alertmanagers": managers}
    return config


def alertmanager_config(webhook: str) -> dict[str, Any]:
    """`alertmanager.yml` that sends every alert to `webhook`, a URL that accepts Alertmanager's JSON.

    Raises:
        TwinError: not an http or https URL.
    """
    try:
        TypeAdapter(HttpUrl).validate_python(webhook)
    except ValidationError as error:
        raise TwinError(
            f"The webhook {webhook!r} is not an http or https URL: use one such as http://127.0.0.1:5002/alerts.",
            field="--webhook",
            value=webhook,
        ) from error
    config: dict[str, Any] = _read(ALERTMANAGER_FILE)
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True, "max_alerts": 100}]
    return config


def _job_and_address(target: str) -> tuple[str, str]:
    job, separator, address = target.partition("=")
    if not (job and separator and address):
        raise TwinError(f"The target {target!r} is not JOB=HOST:PORT.", field="--target", value=target)
    return job, address


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the configuration; exit code 2 for an unknown job or an invalid address."""
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.alerting_config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, dest="command")
    prometheus = commands.add_parser("prometheus")
    prometheus.add_argument("--target", action="append", required=True, metavar="JOB=HOST:PORT")
    prometheus.add_argument("--alertmanager", metavar="HOST:PORT")
    commands.add_parser("alertmanager").add_argument("--webhook", required=True, metavar="URL")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _print_config(options))


def _print_config(options: argparse.Namespace) -> None:
    if options.command == "prometheus":
        config = prometheus_config(dict(map(_job_and_address, options.target)), options.alertmanager)
    else:
        config = alertmanager_config(options.webhook)
    print(yaml.safe_dump(config, sort_keys=False), end="")


if __name__ == "__main__":
    sys.exit(main())
