"""Predict from a battery's log and keep its state beside it: `python examples/client.py LOG.csv [URL]`."""

import csv
import sys
from pathlib import Path

import httpx

BATTERY = {"nominal_capacity_ah": 150, "cells_in_series": 96, "cells_in_parallel": 2, "chemistry": "NMC"}
log, url = Path(sys.argv[1]), (sys.argv[2:] or ["http://127.0.0.1:3100"])[0]
kept = log.with_suffix(".state")
battery = {"battery_id": log.stem, "battery": BATTERY}
if kept.exists():  # continue from the last run; readings that the state includes already are left out
    battery["state"] = kept.read_text()
with log.open() as rows:
    readings = [{name: value for name, value in row.items() if value} for row in csv.DictReader(rows)]
for reading in readings:
    reading.update({name: float(value) for name, value in reading.items() if name != "time"})
response = httpx.post(f"{url}/predict", json={"batteries": [battery | {"readings": readings}]}, timeout=60)
if response.is_error:
    sys.exit(response.json()["error"])
(predicted,) = response.json()["predictions"]
kept.write_text(predicted["state"])
for name in ("soh", "temperature", "rul", "failure_probability"):
    print(name, predicted[name].get("withheld") or predicted[name]["value"], predicted[name].get("unit", ""))
