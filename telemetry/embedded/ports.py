"""Finds a free TCP port."""

from __future__ import annotations

import socket

from telemetry.errors import TwinError

_TRIES = 100


def free_port(host: str, wanted: int) -> int:
    """`wanted` if nothing listens there on `host`, else the next free port; 0 means any.

    Raises:
        TwinError: none of the hundred ports from `wanted` on is free.
    """
    for port in range(wanted, min(wanted + _TRIES, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do, so that a connection that was just closed does not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise TwinError(f"No free port from {wanted} to {wanted + _TRIES - 1} on {host}.", field="port", value=wanted)
