"""Model registry on MLflow: registration, promotion gate, promotion, rollback and their history.

`registry_store` accesses MLflow, `gate_scores` evaluates model files, `promotion` moves the champion aliases,
`registration` is the last stage of the pipeline (and the only part that imports scikit-learn), `__main__` is the
command `python -m training.registry list | promote | rollback | history`.
"""
