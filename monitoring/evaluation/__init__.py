"""Model evaluation: joins each prediction with its ground truth once the label has matured.

`observations` and `outcomes` are pure, `outcome_store` is the SQL, `definitions` loads the label definitions of each
model, `evaluator` runs them in a loop.
"""
