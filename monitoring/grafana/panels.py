"""Specification of the Grafana dashboards: one entry per panel.

A query is PromQL or, if it starts with SELECT, SQL on the telemetry store with Grafana's macros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from features.targets import TARGETS, Target
from telemetry.thresholds import thresholds

PanelKind = Literal["timeseries", "gauge", "stat", "table"]

_LATENCIES = "sum by (le) (rate(prediction_request_duration_seconds_bucket[1m]))"
#: Selected in the dashboard's list; `All` by default.
_SELECTED = '{battery_id=~"$battery"}'


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        legend: name of a series; unused in tables.
        empty_until: condition for the first data; None if a running twin always has some.
        dashed: line style of predictions.
    """

    expression: str
    legend: str = ""
    empty_until: str | None = None
    dashed: bool = False

    @property
    def is_sql(self) -> bool:
        """Whether it is a query of the store instead of Prometheus."""
        return self.expression.startswith("SELECT")


@dataclass(frozen=True)
class PanelSpec:
    """One panel.

    Attributes:
        unit: Grafana's unit id.
        steps: lower limit -> colour, ascending; below the first limit the first colour.
        limits: minimum and maximum of a gauge or an axis.
        width: of 24 columns.
        look_back: time range that overrides the dashboard's.
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


# Okabe-Ito colours, distinguishable with colour blindness.
_GOOD, _WARNING, _BAD = "#009E73", "#E69F00", "#D55E00"
_GRAFANA_UNITS = {"%": "percent", "degC": "celsius", "probability": "percentunit"}


def _gauge(
    title: str, metric: str, description: str, unit: str, decimals: int, limits: tuple[float, float]
) -> PanelSpec:
    """Gauge whose colours and sentence are those of its thresholds."""
    row = thresholds("grafana")[title]
    ordered = sorted(((row.warning, _WARNING), (row.critical, _BAD)), key=lambda step: step[0] or 0.0)
    steps: tuple[tuple[float | None, str], ...]
    if row.is_high:
        steps = ((None, _GOOD), *ordered)
    else:
        (low, _), (high, _) = ordered
        steps = ((None, _BAD), (low, _WARNING), (high, _GOOD))
    side, symbol = "Above" if row.is_high else "Below", " %" if unit == "percent" else ""
    levels = f"{side} {row.warning:g}{symbol} warning, {side.lower()} {row.critical:g}{symbol} critical."
    query = Query(f"{metric}{_SELECTED}", "{{battery_id}}")
    return PanelSpec(title, "gauge", (query,), f"{description} {levels}", unit, decimals, steps, limits)


def _target_panel(target: Target) -> PanelSpec:
    """Actual and predicted values of one target."""
    metric = f"battery_{target.name}"
    newest = f"{metric}_{'forecast' if target.is_forecast else 'predicted'}"
    return PanelSpec(
        f"{target.title}, actual and predicted",
        "timeseries",
        (
            Query(f"{metric}_actual{_SELECTED}", "{{battery_id}} actual"),
            Query(f"{metric}_predicted{_SELECTED}", "{{battery_id}} predicted", dashed=True),
            Query(
                f"{newest}_interval{_SELECTED}",
                "{{battery_id}} {{bound}}",
                empty_until="the model gives an interval",
                dashed=True,
            ),
        ),
        f"{target.shown.description.capitalize()}, {target.shown.unit}. Without an actual value: "
        f"{target.shown.no_truth}.",
        _GRAFANA_UNITS.get(target.shown.unit, "none"),
        width=12,
    )


FLEET = DashboardSpec(
    uid="ev-battery-twin",
    title="EV battery twin",
    description="Current state of the fleet: measurements, predictions and ground truth.",
    rows=(
        (
            "Current state",
            (
                _gauge(
                    "State of health",
                    "battery_soh_predicted",
                    "Predicted, since a real car does not report it.",
                    "percent",
                    1,
                    (60.0, 100.0),
                ),
                _gauge("State of charge", "battery_soc_actual", "Unrelated to health.", "percent", 0, (0.0, 100.0)),
                _gauge(
                    "Failure probability",
                    "battery_failure_predicted",
                    "Probability of end of life or a fault within the horizon of the model.",
                    "percentunit",
                    0,
                    (0.0, 1.0),
                ),
                PanelSpec(
                    "Alerts",
                    "table",
                    (Query('ALERTS{alertstate="firing"}', empty_until="an alert fires"),),
                    "Thermal excess, low charge, failure risk, low remaining life, and faults of the twin itself.",
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
                    "Computed by get_battery_health from charge, health, temperature and failure probability.",
                ),
            ),
        ),
        (
            "Predictions and ground truth",
            (
                *(_target_panel(target) for target in TARGETS.values()),
                PanelSpec(
                    "Voltage, current and power",
                    "timeseries",
                    (
                        Query(f"battery_voltage{_SELECTED}", "{{battery_id}} V"),
                        Query(f"battery_current{_SELECTED}", "{{battery_id}} A"),
                        Query(f"battery_power{_SELECTED}", "{{battery_id}} kW"),
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
                    "100 x max(0, 1 - |error| / max(|actual|, floor)), mean over the newest outcomes.",
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
                    "All targets: predictions stored for the champion, and the counter of each predictor.",
                    "ops",
                ),
                PanelSpec(
                    "Retraining",
                    "timeseries",
                    (
                        Query("model_training_total", "{{metric}} trained"),
                        Query("model_retrains_total", "retraining {{outcome}}"),
                        Query("model_registry_events_total", "{{kind}}", empty_until="the registry has events"),
                    ),
                    "Model versions trained and registered, retrainings by outcome, and registry events.",
                    decimals=0,
                ),
            ),
        ),
        (
            "Telemetry store",
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
                    "Hourly averages are kept after the readings are deleted.",
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
    description="Model accuracy, drift and data flow.",
    rows=(
        (
            "Model evaluation",
            (
                PanelSpec(
                    "Mean absolute error",
                    "timeseries",
                    (Query("prediction_mean_absolute_error", "{{metric}} {{role}}"),),
                    "Newest outcomes, each target in its own unit; challenger beside champion.",
                    width=12,
                ),
                PanelSpec(
                    "Errors seen",
                    "timeseries",
                    (Query("sum by (metric, le) (prediction_error_bucket)", "{{metric}} up to {{le}}"),),
                    "Outcomes since the exporter started, cumulative by absolute error.",
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
                    "Share of actual values inside their intervals; nominal coverage 0.9.",
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
                            empty_until="a drift window is measured",
                        ),
                    ),
                    "Distance from the training reference divided by its threshold; above 1 is out of bounds.",
                    width=12,
                ),
                PanelSpec(
                    "Models at work",
                    "table",
                    (Query("model_batteries"),),
                    "Number of batteries by model version of their newest prediction.",
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
                    (Query("max(prediction_lag_seconds)", "oldest waiting reading"),),
                    unit="s",
                ),
                PanelSpec(
                    "Spool",
                    "timeseries",
                    (
                        Query("spool_depth", "{{consumer}} entries", empty_until="a producer has a spool"),
                        Query("spool_oldest_age_seconds", "{{consumer}} s", empty_until="a producer has a spool"),
                    ),
                    "Entries on disk waiting for each consumer, and the age of the oldest.",
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
