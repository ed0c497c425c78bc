"""What the dashboards show: one entry a panel.

A query is PromQL or, where it starts with SELECT, SQL on the telemetry store with Grafana's macros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PanelKind = Literal["timeseries", "gauge", "stat", "table"]

_LATENCIES = "sum by (le) (rate(prediction_request_duration_seconds_bucket[1m]))"
#: Chosen in the dashboard's list; `All` by default.
_CHOSEN = '{battery_id=~"$battery"}'


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        legend: how a series is called; columns of a table name themselves.
        empty_until: what has to be there before it has data; None where a running twin has it.
        dashed: drawn so, as what is only predicted.
    """

    expression: str
    legend: str = ""
    empty_until: str | None = None
    dashed: bool = False

    @property
    def is_sql(self) -> bool:
        """Asked of the store instead of Prometheus."""
        return self.expression.startswith("SELECT")


@dataclass(frozen=True)
class PanelSpec:
    """One panel.

    Attributes:
        unit: as Grafana calls it.
        steps: limit -> colour, ascending; below the first it is the first colour.
        limits: smallest and largest value of a gauge or an axis.
        width: of 24 columns.
        look_back: its own span of time, where the dashboard's is too short.
    """

    title: str
    kind: PanelKind
    queries: tuple[Query, ...]
    description: str = ""
    unit: str = "none"
    decimals: int | None = None
    steps: tuple[tuple[float | None, str], ...] = ()
    limits: tuple[float | None, float | None] = (None, None)
    width: int = 8
    height: int = 8
    look_back: str | None = None


@dataclass(frozen=True)
class DashboardSpec:
    """One dashboard: rows of panels."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[PanelSpec, ...]], ...]

    @property
    def panels(self) -> tuple[PanelSpec, ...]:
        """All panels, in order."""
        return tuple(panel for _, panels in self.rows for panel in panels)


# Okabe and Ito's colours: told apart by the colour-blind as well.
_GOOD, _WARNING, _BAD = "#009E73", "#E69F00", "#D55E00"
_HIGH_IS_GOOD = ((None, _BAD), (75.0, _WARNING), (85.0, _GOOD))
_CHARGE = ((None, _BAD), (15.0, _WARNING), (30.0, _GOOD))
_RISK = ((None, _GOOD), (0.3, _WARNING), (0.7, _BAD))

FLEET = DashboardSpec(
    uid="ev-battery-twin",
    title="EV battery twin",
    description="What the batteries report, what is predicted of them, and what came true.",
    rows=(
        (
            "Now",
            (
                PanelSpec(
                    "State of health",
                    "gauge",
                    (Query(f"battery_soh_predicted{_CHOSEN}", "{{battery_id}}"),),
                    "Predicted: a real car does not report it. Below 85 % warning, below 75 % critical.",
                    "percent",
                    1,
                    _HIGH_IS_GOOD,
                    (60.0, 100.0),
                ),
                PanelSpec(
                    "State of charge",
                    "gauge",
                    (Query(f"battery_soc_actual{_CHOSEN}", "{{battery_id}}"),),
                    "Below 30 % warning, below 15 % critical. It says nothing about health.",
                    "percent",
                    0,
                    _CHARGE,
                    (0.0, 100.0),
                ),
                PanelSpec(
                    "Failure probability",
                    "gauge",
                    (Query(f"battery_failure_predicted{_CHOSEN}", "{{battery_id}}"),),
                    "Of end of life or a fault within the horizon of the model. Above 0.7 critical.",
                    "percentunit",
                    0,
                    _RISK,
                    (0.0, 1.0),
                ),
                PanelSpec(
                    "Alerts",
                    "table",
                    (Query('ALERTS{alertstate="firing"}', empty_until="something is wrong"),),
                    "Thermal excess, low charge, failure risk, low remaining life, and what is wrong with the twin.",
                    width=16,
                ),
                PanelSpec(
                    "Batteries by health status",
                    "stat",
                    (
                        Query(
                            "SELECT status AS metric, count(*) AS batteries FROM latest_battery_status "
                            "WHERE status IS NOT NULL GROUP BY status ORDER BY status"
                        ),
                    ),
                    "By get_battery_health: charge, health, temperature and failure probability.",
                ),
            ),
        ),
        (
            "Predicted and true",
            (
                PanelSpec(
                    "State of health, actual and predicted",
                    "timeseries",
                    (
                        Query(f"battery_soh_actual{_CHOSEN}", "{{battery_id}} actual"),
                        Query(f"battery_soh_predicted{_CHOSEN}", "{{battery_id}} predicted", dashed=True),
                    ),
                    "Actual only where the pack reports it or a capacity was measured.",
                    "percent",
                    width=12,
                ),
                PanelSpec(
                    "Temperature, actual and predicted",
                    "timeseries",
                    (
                        Query(f"battery_temperature_actual{_CHOSEN}", "{{battery_id}} actual"),
                        Query(
                            f"battery_temperature_predicted{_CHOSEN}",
                            "{{battery_id}} forecast for then",
                            dashed=True,
                        ),
                    ),
                    "Predicted is what was forecast for this moment one horizon ago.",
                    "celsius",
                    width=12,
                ),
                PanelSpec(
                    "Remaining useful life, actual and predicted",
                    "timeseries",
                    (
                        Query(f"battery_rul_predicted{_CHOSEN}", "{{battery_id}} predicted", dashed=True),
                        Query(
                            f"battery_rul_predicted_interval{_CHOSEN}",
                            "{{battery_id}} {{bound}}",
                            empty_until="the model gives an interval",
                            dashed=True,
                        ),
                        Query(f"battery_rul_actual{_CHOSEN}", "{{battery_id}} actual"),
                    ),
                    "Equivalent full cycles. Actual exists once a battery has reached its end of life.",
                    width=12,
                ),
                PanelSpec(
                    "Voltage, current and power",
                    "timeseries",
                    (
                        Query(f"battery_voltage{_CHOSEN}", "{{battery_id}} V"),
                        Query(f"battery_current{_CHOSEN}", "{{battery_id}} A"),
                        Query(f"battery_power{_CHOSEN}", "{{battery_id}} kW"),
                    ),
                    "Current and power are positive while discharging.",
                    width=12,
                ),
            ),
        ),
        (
            "Models",
            (
                PanelSpec(
                    "Prediction accuracy",
                    "timeseries",
                    (Query("prediction_accuracy", "{{metric}}"),),
                    "100 x max(0, 1 - |error| / max(|actual|, floor)) of the newest truths that became known.",
                    "percent",
                    limits=(0.0, 100.0),
                ),
                PanelSpec(
                    "Predictions made",
                    "timeseries",
                    (
                        Query('sum(rate(predictions_total{job="twin"}[1m]))', "stored"),
                        Query(
                            'sum by (job) (rate(predictions_total{job!="twin"}[1m]))',
                            "{{job}}",
                            empty_until="a predictor is scraped",
                        ),
                    ),
                    "Of all targets: as stored for the champion, and as each predictor counts them.",
                    "ops",
                ),
                PanelSpec(
                    "Retraining",
                    "timeseries",
                    (
                        Query("model_training_total", "{{metric}} trained"),
                        Query("model_retrains_total", "retraining {{outcome}}"),
                        Query("model_registry_events_total", "{{kind}}", empty_until="the registry has a history"),
                    ),
                    "Models trained and registered so far, and what happened to them.",
                    decimals=0,
                ),
            ),
        ),
        (
            "From the store",
            (
                PanelSpec(
                    "Newest row of each battery",
                    "table",
                    (
                        Query(
                            "SELECT battery_id, time, status, soc, soh, temperature, rul_prediction, "
                            "failure_probability FROM latest_battery_status "
                            "WHERE battery_id IN (${battery:sqlstring}) ORDER BY battery_id"
                        ),
                    ),
                    width=14,
                ),
                PanelSpec(
                    "Temperature by the hour",
                    "timeseries",
                    (
                        Query(
                            'SELECT bucket AS "time", battery_id AS metric, avg_temperature AS value '
                            "FROM ev_telemetry_hourly WHERE $__timeFilter(bucket) "
                            "AND battery_id IN (${battery:sqlstring}) ORDER BY 1"
                        ),
                    ),
                    "Kept when the readings are retired.",
                    "celsius",
                    width=10,
                    look_back="7d",
                ),
            ),
        ),
    ),
)

MODELS = DashboardSpec(
    uid="ev-battery-twin-models",
    title="EV battery twin: models and data",
    description="How good the models are, whether the world has moved away from them, and whether data flows.",
    rows=(
        (
            "What came true",
            (
                PanelSpec(
                    "Mean absolute error",
                    "timeseries",
                    (Query("prediction_mean_absolute_error", "{{metric}} {{role}}"),),
                    "Newest truths, each in its own unit; the challenger beside the champion.",
                    width=12,
                ),
                PanelSpec(
                    "Errors seen",
                    "timeseries",
                    (Query("sum by (metric, le) (prediction_error_bucket)", "{{metric}} up to {{le}}"),),
                    "Truths that became known since the exporter started, by size of the error.",
                    width=12,
                ),
                PanelSpec(
                    "Predicted and actual",
                    "table",
                    (
                        Query(
                            "SELECT matured_at, battery_id, target, role, model_name, model_version, value, actual, "
                            "error FROM prediction_outcomes WHERE battery_id IN (${battery:sqlstring}) "
                            "ORDER BY outcome_id DESC LIMIT 100"
                        ),
                    ),
                    width=16,
                ),
                PanelSpec(
                    "Coverage of the intervals",
                    "timeseries",
                    (Query("prediction_interval_coverage", "{{metric}}", empty_until="the models give intervals"),),
                    "Share of truths inside their intervals; they promise 0.9.",
                    "percentunit",
                    limits=(0.0, 1.0),
                ),
            ),
        ),
        (
            "Drift",
            (
                PanelSpec(
                    "Drift",
                    "timeseries",
                    (
                        Query(
                            "model_drift_score / model_drift_threshold",
                            "{{metric}} {{kind}}",
                            empty_until="a window of drift has counted",
                        ),
                    ),
                    "Distance from the training reference; 1 is the bound.",
                    width=12,
                ),
                PanelSpec(
                    "Models at work",
                    "table",
                    (Query("model_batteries"),),
                    "Batteries whose newest prediction each version made.",
                    width=12,
                ),
            ),
        ),
        (
            "Data",
            (
                PanelSpec(
                    "Prediction lag",
                    "timeseries",
                    (Query("max(prediction_lag_seconds)", "oldest reading that waits"),),
                    unit="s",
                ),
                PanelSpec(
                    "Spool",
                    "timeseries",
                    (
                        Query("spool_depth", "{{consumer}} entries", empty_until="something spools"),
                        Query("spool_oldest_age_seconds", "{{consumer}} s", empty_until="something spools"),
                    ),
                    "What waits on disk for each consumer, and how long the oldest has.",
                ),
                PanelSpec(
                    "Latency of the service",
                    "timeseries",
                    (
                        Query(
                            f"histogram_quantile(0.99, {_LATENCIES})",
                            "p99",
                            empty_until="the service predicts",
                        ),
                        Query(
                            f"histogram_quantile(0.5, {_LATENCIES})",
                            "p50",
                            empty_until="the service predicts",
                        ),
                    ),
                    unit="s",
                ),
            ),
        ),
    ),
)

DASHBOARDS: tuple[DashboardSpec, ...] = (FLEET, MODELS)
