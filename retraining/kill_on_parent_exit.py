"""Runs a command and kills its process group when the parent exits: `python kill_on_parent_exit.py COMMAND`.

Standard input is a pipe held open by the parent.  When the parent ends, even by SIGKILL, the pipe is closed and the
whole process group is killed, so this must be started in a new process session (`start_new_session=True`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """Run the command; returns its exit code."""
    # SIGTERM goes to the whole group; the command handles it, this waits.  Unlike SIG_IGN, a handler is not inherited.
    signal.signal(signal.SIGTERM, lambda *_: None)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_kill_group_on_eof, daemon=True).start()
    return process.wait()


def _kill_group_on_eof() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
