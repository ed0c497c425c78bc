"""The console on port 5002: the fleet as a web page and as a REST API.

    python -m console

`database` and `queries` read the telemetry store, `api` answers over HTTP, `live` looks once a second for everybody who
watches, `alerts` gives alerts a life, `registry` looks at the models and moves the champion, `pages` draw it all.
"""
