"""Somebody who is told of alerts: takes Alertmanager's JSON and remembers when it came."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """Attributes: url: where to tell it; calls: (monotonic time, body) of each call."""

    url: str
    calls: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def told(self, status: str, **labels: str) -> float | None:
        """When it was first told of an alert with these labels, on the monotonic clock; None if never."""
        for at, body in self.calls:
            for alert in body["alerts"]:
                if alert["status"] == status and labels.items() <= alert["labels"].items():
                    return at
        return None

    def wait(self, status: str, timeout_s: float, **labels: str) -> float:
        """Seconds until it was told, counted from this call; negative if it had been told before."""
        began = time.monotonic()
        while time.monotonic() < began + timeout_s:
            at = self.told(status, **labels)
            if at is not None:
                return at - began
            time.sleep(0.1)
        raise AssertionError(f"not told of {labels} being {status} within {timeout_s} s, only of {self.calls}")


@contextmanager
def webhook() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.calls.append((time.monotonic(), json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Webhook(f"http://127.0.0.1:{server.server_address[1]}/alerts")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
