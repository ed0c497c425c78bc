"""A webhook receiver for tests: records Alertmanager's notifications and their times."""

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
    """Attributes: url: address of the receiver; calls: (monotonic time, body) of each request."""

    url: str
    calls: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def received_at(self, status: str, **labels: str) -> float | None:
        """Time of the first notification of an alert with these labels, on the monotonic clock; None if none."""
        for at, body in self.calls:
            for alert in body["alerts"]:
                if alert["status"] == status and labels.items() <= alert["labels"].items():
                    return at
        return None

    def wait(self, status: str, timeout_s: float, **labels: str) -> float:
        """Seconds from this call until the notification; negative if it arrived before."""
        started = time.monotonic()
        while time.monotonic() < started + timeout_s:
            at = self.received_at(status, **labels)
            if at is not None:
                return at - started
            time.sleep(0.1)
        raise AssertionError(f"no {status} notification of {labels} within {timeout_s} s, only {self.calls}")


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
