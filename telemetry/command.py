"""Exit codes of the pipeline's commands: a `TwinError` prints its sentence, any other exception its traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from telemetry.errors import TwinError

#: Exit code for arguments, parameters or data that cannot be used.
REFUSED = 2


def exit_code(main: Callable[[], int | None]) -> int:
    """Run `main`; its exit code (None: 0), or `REFUSED` with the sentence on stderr where it raises `TwinError`."""
    try:
        return main() or 0
    except TwinError as error:
        print(error.sentence, file=sys.stderr)
        return REFUSED
