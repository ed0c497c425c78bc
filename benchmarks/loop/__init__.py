"""`make loop`: a fleet whose summer turns hot, from the drift to the model that knows it, at high speed.

`fleet` is the batteries with some days behind them, `caller` a client that never stops asking, `scenario` the way from
the first model to the last, `figure` its picture.
"""
