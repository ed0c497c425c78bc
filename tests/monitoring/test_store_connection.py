"""The sessions that hold locks: whoever is lost with its machine gives them up soon."""

from __future__ import annotations

from deploy.servers.postgres import Postgres
from monitoring.store_connection import StoreConnection
from retraining.retrain_store import RetrainStore

_TCP = "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp_%%' ORDER BY name"


def test_the_server_looks_for_a_lost_machine_every_few_seconds(postgres15: Postgres) -> None:
    session, records = StoreConnection(postgres15.tcp_dsn, "tests"), RetrainStore(postgres15.tcp_dsn, "battery", "Ada")
    with session.transaction() as cursor:
        cursor.execute(_TCP)
        watching = dict(cursor.fetchall())
    assert watching == {
        "tcp_keepalives_count": "3",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_user_timeout": "60000",
    }
    assert dict(records._all(_TCP)) == watching
    session.close()
    records.close()
