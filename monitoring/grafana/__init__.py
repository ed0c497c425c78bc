"""Grafana dashboards: `panels` specifies them, `build` renders JSON, `python -m monitoring.grafana` writes the files.

The JSON is committed (`dashboards/`, `provisioning/`), so that the SDK is needed only to change a panel.
"""
