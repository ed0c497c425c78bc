"""The peer of the service: a bare FastAPI application that makes the same ONNX call and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
from fastapi import FastAPI, Request, Response

from benchmarks.forests import Forests

_FIELDS = ("voltage", "current", "temperature", "soc")


def create_app() -> FastAPI:
    """Reads the body of a request, predicts for the first battery from a row of features and answers four numbers.

    No state, no fold, no contract, no metrics.  The folder of the models is BENCHMARK_MODELS.
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
        values = {name: float(value[0]) for name, value in forests.predict(tables).items()}
        return Response(orjson.dumps({"predictions": [values]}), media_type="application/json")

    return app
