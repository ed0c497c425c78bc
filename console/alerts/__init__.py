"""Battery alerts: rules with thresholds, lifecycle (open, changed, resolved) and storage."""
