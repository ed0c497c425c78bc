"""`python -m console`: the console, until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from console.server import Console
from telemetry.embedded.telemetry_store import store_named
from telemetry.errors import TwinError
from telemetry.settings import Settings
from telemetry.stores.migrate import migrate

_FINISH_S = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; 0 after it was told to stop, 2 if it could not begin."""
    parser = argparse.ArgumentParser(prog="python -m console", description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="what the pipeline reported")
    parser.add_argument("--quarantine", type=Path, default=Path("data/quarantine"), help="what the pipeline set aside")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="where the gate's thresholds are")
    arguments = parser.parse_args(argv)
    try:
        with _store_set_up(Settings()) as settings:
            console = Console.open(
                settings, reports=arguments.reports, params=arguments.params, quarantine=arguments.quarantine
            )
            # uvicorn hands it on when it has finished; by default that would end us before the embedded store.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            uvicorn.run(
                console.app,
                host=settings.host,
                port=settings.console_port,
                log_level="warning",
                forwarded_allow_ips=settings.console_trusted_proxies,
                timeout_graceful_shutdown=_FINISH_S,
            )
    except TwinError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


@contextmanager
def _store_set_up(settings: Settings) -> Iterator[Settings]:
    """Settings that name a telemetry store.

    The embedded one is ours to set up.  Another's schema is the business of whoever writes to it: the console needs no
    right to change it, and says so while it is absent.
    """
    with store_named(settings) as named:
        if settings.telemetry_dsn is None and named.telemetry_dsn is not None:
            migrate(named.telemetry_dsn.get_secret_value())
        yield named


if __name__ == "__main__":
    sys.exit(main())
