"""Run a command that ends with whoever started it: `python -m retraining.kill_on_parent_exit COMMAND`.

Standard input is a pipe whose other end the starter holds.  A starter that is killed can end nobody, but its end of the
pipe is closed; then the whole process group is killed, so it is to be started in a session of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """The command's exit code."""
    # The command hears it too, as one of the group, and this waits for it.  Unlike SIG_IGN that is not inherited.
    signal.signal(signal.SIGTERM, lambda *_: None)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_kill_group_on_eof, daemon=True).start()
    return process.wait()


def _kill_group_on_eof() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
