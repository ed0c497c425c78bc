"""Command line entry point `python -m console`: serves the console until SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from console.server import Console
from telemetry.command import exit_code
from telemetry.embedded.postgres import ensure_telemetry_store
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate

_SHUTDOWN_S = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server.  Exit code 0 after SIGTERM, 2 on a configuration error."""
    parser = argparse.ArgumentParser(prog="python -m console", description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of the pipeline's reports")
    parser.add_argument(
        "--quarantine",
        type=Path,
        default=Path("data/quarantine"),
        help="folder of the rows that the pipeline quarantined",
    )
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="file with the thresholds of the promotion gate"
    )
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _serve(arguments))


def _serve(arguments: argparse.Namespace) -> None:
    with _with_store(Settings()) as settings:
        console = Console.open(
            settings, reports=arguments.reports, params=arguments.params, quarantine=arguments.quarantine
        )
        # uvicorn raises the signal again after its shutdown; the default handler would end the process before the
        # embedded telemetry store is stopped.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        uvicorn.run(
            console.app,
            host=settings.host,
            port=settings.console_port,
            log_level="warning",
            forwarded_allow_ips=settings.console_trusted_proxies,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )


@contextmanager
def _with_store(settings: Settings) -> Iterator[Settings]:
    """Settings with the DSN of a telemetry store; starts and migrates the embedded one if none is configured.

    An external store is migrated by the services that write to it: the console needs no DDL privilege there and only
    reports a missing schema.
    """
    with ensure_telemetry_store(settings) as named:
        if settings.telemetry_dsn is None and named.telemetry_dsn is not None:
            migrate(named.telemetry_dsn.get_secret_value())
        yield named


if __name__ == "__main__":
    sys.exit(main())
