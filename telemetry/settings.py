"""Run-time settings, read from environment variables with the prefix `TWIN_`.

They do not affect results: parameters that do are in `params.yaml`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Environment variables that switch off the usage statistics of the tools.
USAGE_STATISTICS_OFF: dict[str, str] = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "BENTOML_DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "PYBAMM_DISABLE_TELEMETRY": "true",
}


class Settings(BaseSettings):
    """Paths, addresses and limits of the running system; every field is `TWIN_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TWIN_", extra="ignore")

    var: Path = Field(Path("var"), description="folder for run-time files, not committed")
    host: str = Field("127.0.0.1", description="address that every server listens on")
    service_port: int = 3100
    prediction_url: str | None = Field(
        None, description="prediction service that the console asks for reasons; the one of this host where absent"
    )
    service_workers: int = Field(1, ge=1, description="worker processes of the prediction service")
    service_max_batteries: int = Field(1_000, ge=1, description="most batteries in one request")
    service_max_rows: int = Field(100_000, ge=1, description="most readings and cycles in one request")
    service_max_body_bytes: int = Field(32 * 2**20, ge=1, description="largest body of one request")
    service_timeout_s: float = Field(10.0, gt=0, description="longest time until the response to a prediction request")
    registry_poll_s: float = Field(1.0, gt=0, description="interval at which the registry is polled for a new champion")
    shadow: bool = Field(False, description="challengers predict beside the champion (shadow mode), recorded only")
    mlflow_port: int = 5000
    metrics_port: int = Field(9091, description="metrics of the twin, served by `python -m monitoring`")
    simulator_metrics_port: int = Field(9094, description="metrics of the live simulator")
    evaluation_interval_s: float = Field(5.0, gt=0, description="interval between evaluations of matured labels")
    retrain_interval_s: float = Field(5.0, gt=0, description="interval between checks for drift that needs retraining")
    console_port: int = 5002
    console_token: SecretStr | None = Field(
        None, description="token required for changes; generated into `var/console_token` where absent"
    )
    console_trusted_proxies: str = Field(
        "127.0.0.1",
        description="comma-separated addresses or networks of proxies whose X-Forwarded headers the console trusts for "
        "the client address and for https",
    )
    mqtt_port: int = 1883
    mqtt_host: str | None = Field(None, description="MQTT broker to publish to; the embedded one where absent")
    mqtt_username: str | None = None
    mqtt_password: SecretStr | None = None
    mqtt_tls: bool = Field(False, description="use TLS for the connection to the broker (port 8883 by convention)")
    mqtt_ca_file: Path | None = Field(
        None, description="certificate authority of the broker; the system's where absent"
    )
    kafka_bootstrap_servers: str | None = Field(
        None, description="host:port, several separated by commas; Kafka is off where absent"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_ca_file: Path | None = Field(
        None, description="certificate authority of the brokers; the system's where absent"
    )
    kafka_partitions: int = Field(
        6, ge=1, description="partitions of a topic that is created: the most scorers that can share it"
    )
    telemetry_dsn: SecretStr | None = Field(
        None, description="PostgreSQL or TimescaleDB; the embedded one where absent"
    )
    spool_max_bytes: int = Field(2**30, description="most disk space for readings while a sink is unavailable")
    max_future_s: float = Field(
        300.0, ge=0, description="how far ahead of the local clock the time of a reading may be; `inf`: no limit"
    )
    database_predictor_name: str = Field(
        "database", description="predictors of one name share the batteries; each name has its own states"
    )
    database_predictor_poll_s: float = Field(0.5, gt=0, description="interval at which new rows are polled")
    database_predictor_batch_rows: int = Field(5_000, ge=1, description="most rows that are read and predicted at once")
    database_predictor_field_map: Path | None = Field(
        None, description="field map (YAML) of an external table or query; ev_telemetry where absent"
    )
    database_predictor_source_dsn: SecretStr | None = Field(
        None, description="database of that table or query; the telemetry store where absent"
    )
    database_predictor_metrics_port: int = 9096
    scorer_group: str = Field("battery-twin-scorer", description="consumer group of the stream scorers")
    scorer_metrics_port: int = 9095
    scorer_checkpoint_s: float = Field(0.25, gt=0, description="checkpoint interval of the stream scorer")
    scorer_checkpoint_messages: int = Field(5_000, ge=1, description="messages after which a checkpoint is made early")
    scorer_message_bytes: int = Field(64 * 2**10, ge=1, description="longer messages are dead-lettered")
    scorer_stores_readings: bool = Field(
        False, description="the stream scorer also stores the readings, for producers that write to Kafka only"
    )
    scorer_session_s: float = Field(
        10.0, ge=1, description="session timeout: time without heartbeat after which another scorer takes over"
    )
    mlflow_tracking_uri: str | None = Field(None, description="MLflow server; SQLite under `var` where absent")
    mlflow_allowed_hosts: str | None = Field(
        None,
        description="names (host:port, separated by commas) by which MLflow of `make run` and of compose is reached, "
        "besides loopback; loopback and private addresses where absent",
    )
    optuna_storage_url: str | None = Field(None, description="RDB for Optuna studies; SQLite under `var` where absent")
    domain: str = Field("battery", description="model namespace: prefix of the registered models that are served")

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking and registry address."""
        return self.mlflow_tracking_uri or f"sqlite:///{(self.var / 'mlflow.db').resolve()}"

    @property
    def optuna_storage(self) -> str:
        """Storage of Optuna studies, so that they survive a kill and several workers can share one."""
        return self.optuna_storage_url or f"sqlite:///{(self.var / 'optuna.db').resolve()}"

    def time_limit(self) -> datetime | None:
        """Latest time that a row may have now, by the local clock; None without a limit."""
        return datetime.now(UTC) + timedelta(seconds=self.max_future_s) if math.isfinite(self.max_future_s) else None

    @property
    def spool_path(self) -> Path:
        """File of the spool."""
        return self.var / "spool.db"

    @property
    def artifact_root(self) -> Path:
        """Artifact folder of the embedded MLflow."""
        return (self.var / "mlartifacts").resolve()

    @property
    def service_url(self) -> str:
        """Base address of the prediction service."""
        return f"http://{self.host}:{self.service_port}"
