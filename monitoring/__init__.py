"""What watches the running twin: Prometheus and Grafana provisioning now; drift, alert rules and the console later."""
