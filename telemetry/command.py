"""Exit codes and signals of commands: a `TwinError` prints its sentence, any other exception its traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable

from telemetry.errors import TwinError

#: Exit code for arguments, parameters or data that cannot be used.
REFUSED = 2


def exit_code(main: Callable[[], int | None], *refusals: type[Exception]) -> int:
    """Run `main`; its exit code (None: 0), or `REFUSED` with a message on stderr for a `TwinError` or `refusals`."""
    refused: tuple[type[Exception], ...] = (TwinError, *refusals)
    try:
        return main() or 0
    except refused as error:
        print(str(error).strip(), file=sys.stderr)
        return REFUSED


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set from now on."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
