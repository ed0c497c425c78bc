"""Run-time settings: read from the environment (prefix `TWIN_`), never a cause of different results.

What changes a result is in `params.yaml` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Switches that keep the tools we build on from reporting home.
NO_TELEMETRY: dict[str, str] = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "BENTOML_DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}


class Settings(BaseSettings):
    """Where things are and where they listen; every field is `TWIN_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TWIN_", extra="ignore")

    var: Path = Field(Path("var"), description="folder for files of the running system, not committed")
    host: str = Field("127.0.0.1", description="address that every server listens on")
    service_port: int = 3100
    service_workers: int = Field(1, ge=1, description="processes that answer predictions")
    service_max_batteries: int = Field(1_000, ge=1, description="batteries that one request may hold")
    service_max_rows: int = Field(100_000, ge=1, description="readings and cycles that one request may hold")
    service_max_body_bytes: int = Field(32 * 2**20, ge=1, description="size of one request")
    registry_poll_s: float = Field(1.0, gt=0, description="time between two looks at the registry for a new champion")
    shadow: bool = Field(False, description="let challengers predict beside the champion, for the record only")
    mlflow_port: int = 5000
    metrics_port: int = Field(9091, description="metrics of the twin, by `python -m monitoring`")
    simulator_metrics_port: int = Field(9094, description="metrics of the live simulator itself")
    evaluation_interval_s: float = Field(5.0, gt=0, description="time between two looks for truths that are known now")
    retrain_interval_s: float = Field(5.0, gt=0, description="time between two looks for drift that asks for training")
    console_port: int = 5002
    console_token: SecretStr | None = Field(
        None, description="what a change in the console asks for; generated into `var/console_token` where absent"
    )
    console_trusted_proxies: str = Field(
        "127.0.0.1",
        description="addresses or networks, separated by commas, of proxies whose word the console takes for the "
        "visitor's address and for https",
    )
    mqtt_port: int = 1883
    mqtt_host: str | None = Field(None, description="broker to publish to; the embedded one where absent")
    mqtt_username: str | None = None
    mqtt_password: SecretStr | None = None
    mqtt_tls: bool = Field(False, description="encrypt the connection to the broker (port 8883 by custom)")
    mqtt_ca_file: Path | None = Field(
        None, description="certificate authority of the broker; the system's where absent"
    )
    kafka_bootstrap_servers: str | None = Field(
        None, description="host:port, several separated by commas; no Kafka where absent"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_ca_file: Path | None = Field(
        None, description="certificate authority of the brokers; the system's where absent"
    )
    kafka_partitions: int = Field(6, ge=1, description="of a topic that does not exist yet: most scorers that share it")
    telemetry_dsn: SecretStr | None = Field(
        None, description="PostgreSQL or TimescaleDB; the embedded one where absent"
    )
    spool_max_bytes: int = Field(2**30, description="disk that readings may take while a sink is away")
    max_future_s: float = Field(
        300.0, ge=0, description="how far ahead of this clock the time of a reading may be; `inf` lifts it"
    )
    database_predictor_name: str = Field(
        "database", description="those of one name share the batteries; each name has states of its own"
    )
    database_predictor_poll_s: float = Field(0.5, gt=0, description="pause between two looks for new rows")
    database_predictor_batch_rows: int = Field(5_000, ge=1, description="rows that are read and predicted at once")
    database_predictor_field_map: Path | None = Field(
        None, description="YAML of a table or query of the site's own; ev_telemetry where absent"
    )
    database_predictor_source_dsn: SecretStr | None = Field(
        None, description="database of that table or query; the telemetry store where absent"
    )
    database_predictor_metrics_port: int = 9096
    scorer_group: str = Field("battery-twin-scorer", description="consumer group of the stream scorers that share")
    scorer_metrics_port: int = 9095
    scorer_checkpoint_s: float = Field(0.25, gt=0, description="time between two checkpoints of the stream scorer")
    scorer_checkpoint_messages: int = Field(
        5_000, ge=1, description="messages after which a checkpoint is made at once"
    )
    scorer_message_bytes: int = Field(64 * 2**10, ge=1, description="a longer message is no reading: dead letter")
    scorer_stores_readings: bool = Field(
        False, description="the stream scorer also stores the readings, for feeds that write to Kafka only"
    )
    scorer_session_s: float = Field(
        10.0, ge=1, description="silence after which a scorer counts as dead and another takes over its batteries"
    )
    mlflow_tracking_uri: str | None = Field(None, description="MLflow server; SQLite under `var` where absent")
    optuna_storage_url: str | None = Field(None, description="RDB for Optuna studies; SQLite under `var` where absent")
    domain: str = Field("battery", description="prefix of the registered models that are served")

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking and registry address."""
        return self.mlflow_tracking_uri or f"sqlite:///{(self.var / 'mlflow.db').resolve()}"

    @property
    def optuna_storage(self) -> str:
        """Where studies are kept so that they survive a kill and more workers can join."""
        return self.optuna_storage_url or f"sqlite:///{(self.var / 'optuna.db').resolve()}"

    @property
    def spool_path(self) -> Path:
        """Where readings wait for the sinks."""
        return self.var / "spool.db"

    @property
    def artifact_root(self) -> Path:
        """Where the embedded MLflow keeps artifacts."""
        return (self.var / "mlartifacts").resolve()

    @property
    def service_url(self) -> str:
        """Base address of the prediction service."""
        return f"http://{self.host}:{self.service_port}"
