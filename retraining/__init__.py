"""Training by itself: what starts it, where it works, what it ends in, and what takes it back.

`trigger` and `comparison` are pure, `records` is the SQL and the lock, `workspace` a DVC workspace of its own, whose
processes are `tethered` to this one, `attempt` one training from the copy of the store to the registry, `promoted` what
came of one that broke off, `watch` the time after a promotion.
`python -m retraining` puts them together.
"""
