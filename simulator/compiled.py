"""Numba's decorators with types, so that what is compiled is still checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` as a part of those that call it."""
    return cast(Function, njit(function))


def compiled_entry(function: Function) -> Function:
    """Compile `function` and keep the machine code on disk: for the few functions that Python calls."""
    return cast(Function, njit(cache=True)(function))
