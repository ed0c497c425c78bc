"""Unprivileged system user for PostgreSQL, which refuses to run as root, and the folder permissions that it needs."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

_SERVER_USER = "pgserver"
_OTHERS_ENTER = 0o001
_OTHERS_READ = 0o004


def server_user() -> str | None:
    """Name of the user that a database server has to run as; None for the user of this process."""
    return _SERVER_USER if os.geteuid() == 0 else None


def system_user(name: str) -> pwd.struct_passwd:
    """The password database entry of `name`, created where absent; needs root."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name], check=True)
        return pwd.getpwnam(name)


def let_others_enter(folder: Path) -> None:
    """Let other users traverse `folder` and its parents; reading stays forbidden."""
    for path in (folder, *folder.parents):
        mode = path.stat().st_mode
        if not mode & _OTHERS_ENTER:
            path.chmod(mode | _OTHERS_ENTER)


def let_others_read(folder: Path) -> None:
    """Make an installation that was unpacked with a strict umask readable by other users."""
    if folder.stat().st_mode & _OTHERS_READ:
        return
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | _OTHERS_READ | (_OTHERS_ENTER if path.is_dir() or mode & 0o100 else 0))
