"""Renders dashboard specifications as Grafana JSON with the Grafana Foundation SDK."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, gauge, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitoring.grafana.panels import DashboardSpec, PanelKind, PanelSpec, Query

PROMETHEUS = model.DataSourceRef(type_val="prometheus", uid="prometheus")
TIMESCALEDB = model.DataSourceRef(type_val="grafana-postgresql-datasource", uid="timescaledb")

_BUILDERS: Mapping[PanelKind, Callable[[], Any]] = {
    "timeseries": timeseries.Panel,
    "gauge": gauge.Panel,
    "stat": stat.Panel,
    "table": table.Panel,
}


def dashboard_json(spec: DashboardSpec) -> str:
    """JSON of one dashboard, deterministic for the same specification."""
    builder = (
        dashboard.Dashboard(spec.title)
        .uid(spec.uid)
        .description(spec.description)
        .tags(["ev-battery-twin"])
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("5s")
        .time("now-15m", "now")
        .readonly()
        .with_variable(_battery_variable())
    )
    for title, panels in spec.rows:
        builder.with_row(dashboard.Row(title))
        for panel in panels:
            builder.with_panel(_panel(panel))
    content = json.loads(JSONEncoder().encode(builder.build()))
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _battery_variable() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("battery")
        .label("Battery")
        .datasource(PROMETHEUS)
        .query("label_values(battery_voltage, battery_id)")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(spec: PanelSpec) -> Any:
    panel = _BUILDERS[spec.kind]().title(spec.title).description(spec.description).span(spec.width).height(spec.height)
    panel.datasource(TIMESCALEDB if spec.queries[0].is_sql else PROMETHEUS)
    panel.unit(spec.unit)
    if spec.decimals is not None:
        panel.decimals(spec.decimals)
    if spec.look_back is not None:
        panel.time_from(spec.look_back)
    low, high = spec.limits
    if low is not None:
        panel.min(low)
    if high is not None:
        panel.max(high)
    if spec.steps:
        steps = [model.Threshold(value=limit, color=colour) for limit, colour in spec.steps]
        panel.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
        panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    for number, query in enumerate(spec.queries):
        panel.with_target(_target(query, spec.kind, chr(ord("A") + number)))
    if spec.kind == "timeseries":
        _style_lines(panel, spec)
    elif spec.kind == "stat":
        panel.reduce_options(common.ReduceDataOptions().values(True).calcs(["lastNotNull"]))
    if reasons := [query.empty_until for query in spec.queries if query.empty_until]:
        panel.no_value(f"No data until {reasons[0]}" if len(reasons) == len(spec.queries) else "No data")
    return panel


def _style_lines(panel: Any, spec: PanelSpec) -> None:
    panel.line_width(1).fill_opacity(0).span_nulls(False)
    for number, query in enumerate(spec.queries):
        if query.dashed:
            dash = model.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]})
            panel.override_by_query(chr(ord("A") + number), [dash])


def _target(query: Query, kind: PanelKind, ref_id: str) -> Builder[Any]:
    if query.is_sql:
        return _SqlTarget(query.expression, "time_series" if kind == "timeseries" else "table", ref_id)
    target = prometheus.Dataquery().expr(query.expression).ref_id(ref_id).datasource(PROMETHEUS)
    if kind == "table":
        return target.instant().format(PromQueryFormat.TABLE)
    target.legend_format(query.legend)
    return target.range() if kind == "timeseries" else target.instant()


class _SqlQuery(Dataquery):
    """A query of Grafana's PostgreSQL data source, for which the SDK has no type."""

    def __init__(self, sql: str, result: str, ref_id: str) -> None:
        self.ref_id = ref_id
        self.hide: bool | None = None
        self._payload = {
            "rawSql": sql,
            "rawQuery": True,
            "editorMode": "code",
            "format": result,
            "refId": ref_id,
            "datasource": TIMESCALEDB.to_json(),
        }

    def to_json(self) -> dict[str, object]:
        return dict(self._payload)


class _SqlTarget(Builder[_SqlQuery]):
    def __init__(self, sql: str, result: str, ref_id: str) -> None:
        self._query = _SqlQuery(sql, result, ref_id)

    def build(self) -> _SqlQuery:
        return self._query
