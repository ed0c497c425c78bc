"""How the two ends of a session with the telemetry store find out that the other one is gone without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Arguments of `psycopg2.connect`: a server that is gone is noticed within about 20 s.
NOTICE_LOST_SERVER: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}

#: First statement of a session that holds a lock: the server drops it about a minute after its machine was lost, not
#: after the two hours of an operating system.  No `options` of the connection, which would replace those of a DSN.
NOTICE_LOST_CLIENT = (
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 60000"
)
