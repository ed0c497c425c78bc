"""Which predictions came true: each truth that is known by now beside the prediction that was made for it.

`observe` and `judge` are pure, `store` is the SQL, `definitions` says what counts as end of life and failure,
`evaluator` puts them together, round after round.
"""
