"""Preallocated file that is deleted on ENOSPC so that consumers can commit."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class DiskReserve:
    """A preallocated file of `size` bytes."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def fill(self) -> bool:
        """Allocate the file unless it exists; False if the disk has too little space."""
        if self._path.exists():
            return True
        descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError:
            self._path.unlink()
            return False
        finally:
            os.close(descriptor)
        return True

    def release(self) -> bool:
        """Delete the file; False if it does not exist."""
        if not self._path.exists():
            return False
        with suppress(FileNotFoundError):
            self._path.unlink()
        return True
