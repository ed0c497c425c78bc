"""Store connections that hold advisory locks have TCP keepalives, so a lost client's lock is released soon."""

from __future__ import annotations

from deploy.servers.postgres import Postgres
from retraining.retrain_store import RetrainStore
from telemetry.stores.connection import StoreConnection

_TCP = "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp_%%' ORDER BY name"


def test_server_detects_a_lost_client_within_a_minute(postgres15: Postgres) -> None:
    connection, records = (
        StoreConnection(postgres15.tcp_dsn, "tests", advisory_lock=1),
        RetrainStore(postgres15.tcp_dsn, "battery", "Ada"),
    )
    with connection.transaction() as cursor:
        cursor.execute(_TCP)
        keepalives = dict(cursor.fetchall())
    assert keepalives == {
        "tcp_keepalives_count": "3",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_user_timeout": "60000",
    }
    assert dict(records._fetch_all(_TCP)) == keepalives
    connection.close()
    records.close()
