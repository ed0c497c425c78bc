"""Which version of each model serves, who decided so and why.

`store` asks MLflow, `judging` scores files, `promotion` moves the champion, `registration` is the last
stage of the pipeline (and the only part that imports scikit-learn), `__main__` is the command
`python -m training.registry list | promote | rollback | history`.
"""
