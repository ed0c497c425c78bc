"""Monitoring of the running twin: model evaluation, drift detection, Prometheus metrics, alert rules and dashboards."""
