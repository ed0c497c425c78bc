"""Grafana dashboards: `panels` says what is shown, `build` makes it JSON, `python -m monitoring.grafana` writes it.

What Grafana reads is committed (`dashboards/`, `provisioning/`), so that only whoever changes a panel needs the SDK.
"""
