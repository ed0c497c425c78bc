"""Scores large requests one at a time in a thread, so that small ones need not wait, and stops abandoned ones."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request

from serving.request_body import RefusedError


class StoppedError(RuntimeError):
    """The result of a request is no longer wanted."""


class LargeRequests:
    """Queue of the large requests of one process."""

    def __init__(self) -> None:
        # Two of them at once would only compete for the interpreter lock and the caches.
        self._one_at_a_time = CapacityLimiter(1)
        self._last_s = 0.0

    async def run(self, work: Callable[[threading.Event], bytes], request: Request, timeout_s: float) -> bytes:
        """The result of `work` in a thread; its argument is set as soon as the result is no longer wanted.

        Raises:
            RefusedError: 503, with the header Retry-After, there is no result within `timeout_s`.
            starlette.requests.ClientDisconnect: the client closed the connection.
        """
        stop, is_running = threading.Event(), threading.Event()

        def timed() -> bytes:
            if stop.is_set():
                raise StoppedError
            is_running.set()
            began = time.perf_counter()
            try:
                return work(stop)
            finally:
                self._last_s = time.perf_counter() - began

        job = asyncio.ensure_future(to_thread.run_sync(timed, limiter=self._one_at_a_time))
        gone = asyncio.ensure_future(_disconnection(request))
        try:
            await asyncio.wait((job, gone), timeout=max(timeout_s, 0.0), return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                return job.result()
            if gone.done():
                raise ClientDisconnect
            raise self._timeout(timeout_s, is_running=is_running.is_set())
        finally:
            stop.set()
            gone.cancel()
            # A running thread holds its place until it stops, so the job is cancelled only while it waits.
            if not job.done():
                job.add_done_callback(_ignore_result)
                if not is_running.is_set():
                    job.cancel()

    def _timeout(self, timeout_s: float, *, is_running: bool) -> RefusedError:
        waiting = self._one_at_a_time.statistics().tasks_waiting
        retry_s = max(1, math.ceil(waiting * self._last_s))
        if is_running:
            sentence = f"the request took longer than {timeout_s:.3g} s: send it in parts"
        else:
            sentence = f"the service is busy with other large requests: send this one again in {retry_s} s"
        return RefusedError(503, sentence, {"Retry-After": str(retry_s)})


async def _disconnection(request: Request) -> None:
    """Return when the client has closed the connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _ignore_result(job: asyncio.Future[bytes]) -> None:
    if not job.cancelled():
        job.exception()
