"""Reference for the prediction service: a minimal FastAPI application with the same ONNX inference."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
from fastapi import FastAPI, Request, Response

from benchmarks.forests import Forests

_FIELDS = ("voltage", "current", "temperature", "soc")


def create_app() -> FastAPI:
    """Application that parses a request, predicts for the first battery and returns four numbers.

    Features are a fixed row with the reading; no state update, validation or metrics.  BENCHMARK_MODELS is the folder
    of the models.
    """
    forests = Forests.load(Path(os.environ["BENCHMARK_MODELS"])).served
    rows = Forests.load(Path(os.environ["BENCHMARK_MODELS"])).tables(1)
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = orjson.loads(await request.body())
        sent = body["batteries"][0]["readings"][-1]
        tables = {name: row.copy() for name, row in rows.items()}
        tables["reading"][0, : len(_FIELDS)] = [sent[field] for field in _FIELDS]
        values = {name: float(output.value[0]) for name, output in forests.predict(tables).items()}
        return Response(orjson.dumps({"predictions": [values]}), media_type="application/json")

    return app
