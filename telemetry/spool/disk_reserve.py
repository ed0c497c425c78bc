"""Room on the disk that is kept for consumers: they need some to write down that they have made some."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Reserve:
    """A file of `size` bytes that holds nothing and is given back when the disk is full."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def fill(self) -> bool:
        """Take the room if it is not taken; False if the disk does not have it."""
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
        """Give the room back; False if there was none."""
        if not self._path.exists():
            return False
        with suppress(FileNotFoundError):
            self._path.unlink()
        return True
