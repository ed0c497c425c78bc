"""Drift detection: compares features, predictions and errors of each champion with its training reference.

`distances` and `bounds` are pure, `training_reference` is the reference registered with the model, `windows` reads one
window of event time from the store, `drift_store` is the SQL of the results, `drift_monitor` runs it for each window.
"""
