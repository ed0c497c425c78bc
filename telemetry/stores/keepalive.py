"""TCP keepalive settings with which client and server detect a lost database connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Arguments of `psycopg2.connect`: the client detects a lost server within about 20 s.
CLIENT_KEEPALIVE: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}

#: First statement of a connection that holds a lock: the server closes it about a minute after the client's machine was
#: lost, not after the two hours that are an operating system's default.  Not passed as `options` of the connection,
#: which would replace those of a DSN.
SERVER_KEEPALIVE_SQL = (
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 60000"
)
