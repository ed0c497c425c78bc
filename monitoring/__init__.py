"""What watches the running twin: what came true, metrics, alert rules, dashboards, the console."""
