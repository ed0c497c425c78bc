"""Typed wrappers of numba's `njit`, so that mypy checks compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` together with its callers."""
    return cast(Function, njit(function))


def compiled_entry(function: Function) -> Function:
    """Compile `function` and cache the machine code on disk; for the functions that Python calls."""
    return cast(Function, njit(cache=True)(function))
