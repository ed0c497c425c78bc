"""Model of a disk after a power cut, computed from a trace of the system calls of a process.

Synced writes are on the disk.  Of a write that was not synced each sector may be there or not, independently and in any
order, and one write is torn at a random byte.  The same holds for changes of a file's length and for its removal.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SECTOR_BYTES = 512
_CALLS = "write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat"
#: 17 pwrite64(3</some/file>, "\x53\x51", 2, 0) = 2
_CALL = re.compile(r"^\d+ +(\w+)\((?:(\d+)<([^>]*)>|AT_FDCWD<[^>]*>)?(.*)\) += (\d+)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Write:
    """Bytes written at an offset of a file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A new length of a file."""

    size: int


@dataclass(frozen=True)
class Remove:
    """Removal of a file."""


Change = Write | Truncate | Remove


@dataclass(frozen=True)
class Changed:
    """A change of the file `name` that is not synced yet."""

    name: str
    change: Change


@dataclass(frozen=True)
class Synced:
    """A sync of all changes of the file `name`; of the removals of all files if `name` is empty (folder sync)."""

    name: str


@dataclass(frozen=True)
class OutputLine:
    """A line that the process wrote to its standard output."""

    line: str


Event = Changed | Synced | OutputLine


def trace_process(command: Sequence[str], folder: Path, trace: Path, cwd: Path) -> list[Event]:
    """Run `command` under strace; returns its operations on the files in `folder`, in order."""
    options = ["-f", "-y", "-xx", "-s", str(2**24), "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(trace)]
    subprocess.run(["strace", *options, *command], check=True, cwd=cwd, stdout=subprocess.DEVNULL)
    with trace.open(encoding="ascii") as lines:
        return [event for line in lines for event in _events(line, folder.resolve())]


def cannot_trace() -> str | None:
    """Reason why a process cannot be traced here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian package strace)"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"strace is not permitted here: {tried.stderr.strip()}"


@dataclass
class _File:
    """One file: its synced content (None: no file) and the changes since then."""

    durable: bytes | None = None
    pending: list[Change] = field(default_factory=list)


class Disk:
    """Disk content after the applied events of a trace.

    Args:
        honours_sync: False for a disk that reports a sync without doing it: the negative control.
    """

    def __init__(self, *, honours_sync: bool = True) -> None:
        self._honours_sync = honours_sync
        self._files: dict[str, _File] = {}

    def apply(self, event: Changed | Synced) -> None:
        """Apply the next event."""
        if isinstance(event, Changed):
            self._files.setdefault(event.name, _File()).pending.append(event.change)
        elif self._honours_sync and event.name:
            file = self._files.setdefault(event.name, _File())
            file.durable = _applied(file.durable, file.pending)
            file.pending = []
        elif self._honours_sync:
            for file in self._files.values():
                if Remove() in file.pending:
                    last = len(file.pending) - file.pending[::-1].index(Remove())
                    file.durable, file.pending = None, file.pending[last:]

    def cut(self, rng: random.Random, folder: Path) -> None:
        """Write a possible disk content after a power cut at this point into the empty `folder`."""
        share = rng.choice((0.0, 0.5, 0.9, 1.0))  # of the changes that were not synced, the share that reached the disk
        for name, file in self._files.items():
            content = _applied(file.durable, list(_survivors(file.pending, share, rng)))
            if content is not None:
                (folder / name).write_bytes(content)


def _applied(content: bytes | None, changes: Sequence[Change]) -> bytes | None:
    if not changes:
        return content
    present = None if content is None else bytearray(content)
    for change in changes:
        if isinstance(change, Remove):
            present = None
            continue
        present = bytearray() if present is None else present
        end = change.size if isinstance(change, Truncate) else change.offset + len(change.data)
        present.extend(bytes(max(end - len(present), 0)))
        if isinstance(change, Truncate):
            del present[change.size :]
        else:
            present[change.offset : end] = change.data
    return None if present is None else bytes(present)


def _survivors(changes: Sequence[Change], share: float, rng: random.Random) -> Iterator[Change]:
    torn = rng.randrange(len(changes)) if changes else 0
    for number, change in enumerate(changes):
        if not isinstance(change, Write):
            if rng.random() < share:
                yield change
            continue
        end = rng.randrange(len(change.data) + 1) if number == torn else len(change.data)
        begin = 0
        while begin < end:
            # Up to the next sector boundary of the disk.
            size = _SECTOR_BYTES - (change.offset + begin) % _SECTOR_BYTES
            if rng.random() < share:
                yield Write(change.offset + begin, change.data[begin : min(begin + size, end)])
            begin += size


def _events(line: str, folder: Path) -> Iterator[Event]:
    match = _CALL.match(line.rstrip("\n"))
    if match is None:  # a signal or a failed call
        return
    call, descriptor, path, rest, result = match.groups()
    text = _TEXT.search(rest)
    if call == "write" and descriptor == "1":
        assert text is not None
        yield from map(OutputLine, _bytes(text[1]).decode().splitlines())
        return
    name = _name(_plain(path) if path is not None else _bytes(text[1]).decode() if text is not None else "", folder)
    if name is None:
        return
    if call in ("fsync", "fdatasync"):
        yield Synced(name)
    elif call in ("unlink", "unlinkat"):
        yield Changed(name, Remove())
    elif call == "ftruncate":
        yield Changed(name, Truncate(int(rest.rpartition(", ")[2])))
    elif call == "pwrite64":
        assert text is not None
        yield Changed(name, Write(int(rest.rpartition(", ")[2]), _bytes(text[1])[: int(result)]))
    else:
        raise AssertionError(f"the disk model does not support this call on {name}: {line[:200]}")


def _name(path: str, folder: Path) -> str | None:
    """Name of a file in `folder`, empty for `folder` itself; None for all other paths."""
    if path == str(folder):
        return ""
    return Path(path).name if Path(path).parent == folder else None


def _plain(path: str) -> str:
    return _bytes(path).decode() if path.startswith("\\x") else path


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
