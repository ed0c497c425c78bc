"""Kafka topic names and connection options that all Kafka clients of the twin share."""

from __future__ import annotations

from typing import Any

from telemetry.errors import TwinError
from telemetry.settings import Settings

TELEMETRY_TOPIC = "ev_battery_telemetry"
PREDICTIONS_TOPIC = "ev_battery_predictions"
DEAD_LETTER_TOPIC = "ev_battery_telemetry_dead_letter"


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of a kafka-python client (3 or newer) to connect to the brokers of `settings`.

    Raises:
        TwinError: no broker is configured, or SASL without user name and password.
    """
    servers = [server.strip() for server in (settings.kafka_bootstrap_servers or "").split(",") if server.strip()]
    if not servers:
        raise TwinError(
            "TWIN_KAFKA_BOOTSTRAP_SERVERS is not set: name a broker (host:port) to use Kafka.",
            field="kafka_bootstrap_servers",
        )
    options: dict[str, Any] = {
        "bootstrap_servers": servers,
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_ca_file is not None:
        options["ssl_cafile"] = str(settings.kafka_ca_file)
    if settings.kafka_security_protocol.startswith("SASL"):
        if settings.kafka_username is None or settings.kafka_password is None:
            raise TwinError(
                f"TWIN_KAFKA_SECURITY_PROTOCOL is {settings.kafka_security_protocol}: "
                "set TWIN_KAFKA_USERNAME and TWIN_KAFKA_PASSWORD too.",
                field="kafka_username",
            )
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
    return options
