"""`make bench`: writes `reports/bench.json` and prints it as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.http_predict import http_predict
from benchmarks.inference import inference_one_row, inference_rows
from benchmarks.ingest import ingest
from benchmarks.stream import stream
from benchmarks.training import training
from pipelines.params import FEATURES, MODELS, REPORTS, write_json


def main() -> None:
    figures = [inference_one_row(MODELS), *inference_rows(MODELS), *http_predict(MODELS)]
    figures += [*ingest(), *stream(), *training(FEATURES)]
    write_json(REPORTS / "bench.json", figures)
    table = Table("name", "value", "unit", "peer", "peer's value", "ratio")
    for figure in figures:
        table.add_row(
            figure["name"],
            f"{figure['value']:.4g}",
            figure["unit"],
            figure["peer"],
            f"{figure['peer_value']:.4g}",
            f"{figure['ratio']:.1f}x",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
