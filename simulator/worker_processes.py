"""Runs a function for many items in worker processes, which end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from telemetry.errors import TwinError

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_workers(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`function(item)` of each item, in the order of the items; with one worker in this process.

    Args:
        function: of module level, or a `partial` of such a one, because the processes are started anew (spawned).
        workers: number of processes.

    Raises:
        TwinError: `workers` is less than 1, or the operating system killed a worker.
    """
    if workers < 1:
        raise TwinError(f"workers is {workers}: it should be 1 or more", field="workers", value=workers)
    if min(workers, len(items)) <= 1:
        yield from map(function, items)
        return
    # Not forked: a copy of a process with threads (Arrow's, a progress bar's) may wait for ever for a lock of them.
    pool = ProcessPoolExecutor(
        min(workers, len(items)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool as error:
        raise TwinError(
            f"one of {workers} worker processes was killed, often for lack of memory; use fewer workers",
            field="workers",
            value=workers,
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """End with the parent process even if that is killed, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
