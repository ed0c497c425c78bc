"""Does what the champion sees, says and gets wrong still look like what it was fitted on?

`distances` and `status` are pure, `reference` is what was registered with the model, `windows` is what the store holds
of an interval of event time, `store` is the SQL of the results, `watcher` puts them together, window after window.
"""
