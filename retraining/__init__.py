"""Automatic retraining: starts a training on drift, promotes through the gate, and rolls back a worse champion.

`trigger` and `champion_comparison` are pure, `retrain_store` is the SQL and the advisory lock, `workspace` an isolated
DVC workspace, `training_run` one training from the snapshot of the store to the registry, `promotion_record` finds the
promotion of a training, `promotion_monitor` compares after a promotion.  `python -m retraining` runs them.
"""
