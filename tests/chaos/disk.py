"""What a disk may hold after a power cut, from a trace of the system calls that a process made.

A write that no sync followed may be there or not, whole or in part, in any order: each of its sectors for itself, and
one of the writes torn at any byte.  What was synced is there.  The same holds for a file's length and its removal.
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
    """Bytes at a place of a file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    """A new length of a file."""

    size: int


@dataclass(frozen=True)
class Remove:
    """The end of a file."""


Change = Write | Truncate | Remove


@dataclass(frozen=True)
class Changed:
    """A change of the file `name`, of which the disk knows nothing yet."""

    name: str
    change: Change


@dataclass(frozen=True)
class Synced:
    """All changes of the file `name` are on the disk; of every file's removal, where `name` is empty."""

    name: str


@dataclass(frozen=True)
class Told:
    """A line that the process wrote to its standard output."""

    line: str


Event = Changed | Synced | Told


def traced(command: Sequence[str], folder: Path, trace: Path, cwd: Path) -> list[Event]:
    """Run `command` to its end under strace, and give what it did with the files in `folder`, in order."""
    options = ["-f", "-y", "-xx", "-s", str(2**24), "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(trace)]
    subprocess.run(["strace", *options, *command], check=True, cwd=cwd, stdout=subprocess.DEVNULL)
    with trace.open(encoding="ascii") as lines:
        return [event for line in lines for event in _events(line, folder.resolve())]


def cannot_trace() -> str | None:
    """Why a process cannot be traced here; None where it can."""
    if shutil.which("strace") is None:
        return "strace is absent (Debian package strace)"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()}"


@dataclass
class _File:
    """One file: what a cut leaves for sure (None: nothing), and what came after that."""

    durable: bytes | None = None
    pending: list[Change] = field(default_factory=list)


class Disk:
    """Follows the events of a trace.

    Args:
        obeys: False for a disk that says synced and is not: the negative control.
    """

    def __init__(self, *, obeys: bool = True) -> None:
        self._obeys = obeys
        self._files: dict[str, _File] = {}

    def follow(self, event: Changed | Synced) -> None:
        """Take the next event."""
        if isinstance(event, Changed):
            self._files.setdefault(event.name, _File()).pending.append(event.change)
        elif self._obeys and event.name:
            file = self._files.setdefault(event.name, _File())
            file.durable = _applied(file.durable, file.pending)
            file.pending = []
        elif self._obeys:
            for file in self._files.values():
                if Remove() in file.pending:
                    last = len(file.pending) - file.pending[::-1].index(Remove())
                    file.durable, file.pending = None, file.pending[last:]

    def cut(self, rng: random.Random, folder: Path) -> None:
        """Write into the empty `folder` what may be there after a cut at this moment."""
        share = rng.choice((0.0, 0.5, 0.9, 1.0))  # of what was not synced, what has come to the disk all the same
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
    for place, change in enumerate(changes):
        if not isinstance(change, Write):
            if rng.random() < share:
                yield change
            continue
        end = rng.randrange(len(change.data) + 1) if place == torn else len(change.data)
        begin = 0
        while begin < end:
            # To the next border of a sector on the disk.
            size = _SECTOR_BYTES - (change.offset + begin) % _SECTOR_BYTES
            if rng.random() < share:
                yield Write(change.offset + begin, change.data[begin : min(begin + size, end)])
            begin += size


def _events(line: str, folder: Path) -> Iterator[Event]:
    match = _CALL.match(line.rstrip("\n"))
    if match is None:  # of a signal, or of a call that failed
        return
    call, descriptor, path, rest, result = match.groups()
    text = _TEXT.search(rest)
    if call == "write" and descriptor == "1":
        assert text is not None
        yield from map(Told, _bytes(text[1]).decode().splitlines())
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
        raise AssertionError(f"a call on {name} that the model does not know: {line[:200]}")


def _name(path: str, folder: Path) -> str | None:
    """The name of a file in `folder`, empty for `folder` itself; None for every other path."""
    if path == str(folder):
        return ""
    return Path(path).name if Path(path).parent == folder else None


def _plain(path: str) -> str:
    return _bytes(path).decode() if path.startswith("\\x") else path


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
