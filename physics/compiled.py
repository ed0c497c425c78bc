"""Typed wrappers of numba's `njit`, so that mypy checks compiled functions."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` together with its callers."""
    return cast(Function, njit(function))


def compiled_inner(function: Function) -> Function:
    """Compile `function` together with its callers, for these alone: Python cannot call it, which compiles faster."""
    return cast(Function, njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))


def compiled_entry(function: Function) -> Function:
    """Compile `function` and cache the machine code on disk; for the functions that Python calls."""
    return cast(Function, njit(cache=True)(function))


def sources_checksum(*rooms: str) -> int:
    """Checksum of all Python files in the folders `rooms` of the project.

    Numba's disk cache notices a change of the file of a compiled entry only, not of the files that it inlines.
    """
    root = Path(__file__).resolve().parents[1]
    return zlib.crc32(b"".join(path.read_bytes() for room in rooms for path in sorted((root / room).rglob("*.py"))))
