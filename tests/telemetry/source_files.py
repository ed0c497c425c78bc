"""Writes small files in the layout of every source, for tests."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

MATR_COLUMNS = [
    "voltage mean",
    "voltage std",
    "voltage kurtosis",
    "voltage skewness",
    "CC Q",
    "CC charge time",
    "voltage slope",
    "voltage entropy",
    "current mean",
    "current std",
    "current kurtosis",
    "current skewness",
    "CV Q",
    "CV charge time",
    "current slope",
    "current entropy",
    "capacity",
]


def matr(folder: Path, rows: int = 12) -> Path:
    """Two cells; returns the first file."""
    folder.mkdir(parents=True, exist_ok=True)
    for cell in ("2017-05-12_battery-1", "2017-05-12_battery-2"):
        table = pd.DataFrame(np.arange(rows * 17).reshape(rows, 17) / 100.0, columns=MATR_COLUMNS)
        table.assign(capacity=1.07).to_csv(folder / f"{cell}.csv", index=False)
    return folder / "2017-05-12_battery-1.csv"


def nasa_pcoe(folder: Path) -> Path:
    """One cell with telemetry of two discharges, one without; returns the telemetry file."""
    (folder / "discharge").mkdir(parents=True, exist_ok=True)
    tests = [
        ("charge", "[2008. 4. 2. 13. 8. 17.921]", 24, "B0005", ""),
        ("discharge", "[2008. 4. 2. 15. 25. 41.593]", 24, "B0005", "1.8564874208181574"),
        ("impedance", "[2008 4 2 16 37 51]", 24, "B0005", ""),
        (
            "discharge",
            "[2.0080e+03 4.0000e+00 2.0000e+00 1.9000e+01 4.3000e+01 4.8406e+01]",
            24,
            "B0005",
            "1.846327249719927",
        ),
        ("discharge", "[2010. 7. 21. 15. 0. 35.093]", 4, "B0047", "[]"),
        ("discharge", "[2010. 7. 21. 21. 2. 56.984]", 4, "B0047", "0"),
        ("discharge", "[2010. 7. 22. 1. 40. 6.218]", 4, "B0047", "0.04"),
        ("discharge", "[2010. 7. 22. 6. 16. 21.781]", 4, "B0047", "1.52"),
    ]
    metadata = pd.DataFrame(tests, columns=["type", "start_time", "ambient_temperature", "battery_id", "Capacity"])
    metadata.assign(test_id=range(len(tests)), Re="", Rct="").to_csv(folder / "metadata.csv", index=False)
    rows = []
    for test in (1, 2):
        for step in range(40):
            load = 2.0 if step >= 2 else 0.0
            rows.append((4.2 - 0.1 * load - 0.01 * step, -load, 24.0 + 0.1 * step, step * 18.7, test))
    names = ["Voltage_measured", "Current_measured", "Temperature_measured", "Time", "cycle_idx"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "discharge" / "B0005.csv", index=False)
    return folder / "discharge" / "B0005.csv"


def car(rows: int = 400, *, seed: int = 0) -> pd.DataFrame:
    """A drive of a car with four cells in series, of which three are reported; current positive while discharging."""
    random = np.random.default_rng(seed)
    current = np.round(random.normal(20.0, 25.0, rows), 1)
    soc = 90.0 - np.cumsum(current) * 10.0 / 3600.0 / 120.0 * 100.0
    cell = 3.9 - 0.001 * current
    return pd.DataFrame(
        {
            "tboxTime": pd.date_range("2019-04-15 18:00:00", periods=rows, freq="10s").strftime("%Y-%m-%d %H:%M:%S"),
            "BMSChargeStatus": 3.0,
            "vehSpeed": 40.0,
            "BMSBatteryVoltage": 4 * cell,
            "BMSCellVoltageMax": cell + 0.01,
            "BMSCellVoltageMin": cell - 0.01,
            "BMSBatteryCurrent": current,
            "vehBMSPackSOC": np.round(soc),
            "BMSProbeTempMax": 25,
            "BMSProbeTempMin": 23,
            "BMSWarningInformation": 0,
            "vehOdo": 29956.8,
            "insulationResistance": 0.5,  # MOhm
            "BMSCellVoltageM": cell,
            "V_1": cell,
            "V_2": cell + 0.005,
            "V_3": cell - 0.005,
            "BMSProbeTempM": 65.0,
            "T_1": 65.0,
            "T_2": 255.0,
        }
    )


def ev_faults(folder: Path, table: pd.DataFrame | None = None) -> Path:
    """One zipped car; returns the zip."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "car3_processed.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("car3_processed.csv", (car() if table is None else table).to_csv(index=False))
    (folder / "LICENSE").write_text("MIT")
    return archive


def eviot(folder: Path, *, title: bool = False, rows: int = 50) -> Path:
    """The Kaggle file, with or without its title row; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "Timestamp": pd.date_range("2020-01-01", periods=rows, freq="15min").astype("str"),
            "SoC": random.uniform(0.1, 0.9, rows),
            "SoH": random.uniform(0.8, 1.0, rows),
            "Battery_Voltage": random.uniform(200, 400, rows),
            "Battery_Current": random.normal(0, 50, rows),
            "Battery_Temperature": random.uniform(15, 45, rows),
            "Charge_Cycles": random.uniform(0, 1000, rows),
            "Ambient_Temperature": random.uniform(-10, 35, rows),
            "Driving_Speed": random.uniform(0, 120, rows),
            "RUL": random.uniform(0, 300, rows),
            "Failure_Probability": random.integers(0, 2, rows),
        }
    )
    text = table.to_csv(index=False)
    path = folder / "EV_Predictive_Maintenance_Dataset_15min.csv"
    path.write_text(("EVIoT-PredictiveMaint Dataset" + "," * 10 + "\n" if title else "") + text)
    return path


def fleet(folder: Path, rows: int = 60) -> Path:
    """Two simulated batteries; returns the readings file."""
    folder.mkdir(parents=True, exist_ok=True)
    time = pd.date_range("2026-01-01", periods=rows, freq="30s", tz="UTC").astype("datetime64[us, UTC]")
    current = np.random.default_rng(0).normal(10.0, 30.0, rows)
    one = pd.DataFrame({"time": time, "voltage": 360.0 - 0.1 * current, "current": current, "temperature": 25.0})
    both = pd.concat([one.assign(battery_id=i) for i in ("EV-1", "EV-2")], ignore_index=True)
    both.to_parquet(folder / "readings.parquet", index=False)
    batteries = pd.DataFrame({"battery_id": ["EV-1", "EV-2"], "nominal_capacity_ah": 150.0, "chemistry": "NMC"})
    batteries.to_parquet(folder / "batteries.parquet", index=False)
    return folder / "readings.parquet"


def timescale(folder: Path, rows: int = 60) -> Path:
    """A snapshot of a store with two batteries and two sessions; returns the readings file."""
    fleet(folder, rows)
    sessions = pd.DataFrame(
        {
            "battery_id": "EV-1",
            "cycle_index": [40.25, 40.5],
            "kind": ["discharge", "charge"],
            "start_time": pd.to_datetime(["2025-12-30 08:00Z", "2025-12-30 18:00Z"]).astype("datetime64[us, UTC]"),
            "end_time": pd.to_datetime(["2025-12-30 09:00Z", "2025-12-30 19:00Z"]).astype("datetime64[us, UTC]"),
            "soh": [93.0, 92.9],
            "temperature_mean_c": [21.0, 24.0],
        }
    )
    sessions.to_parquet(folder / "cycles.parquet", index=False)
    tables = sorted(folder.glob("*.parquet"))
    manifest = {
        "readings": {"rows": 2 * rows, "from": "a", "until": "b", "days": 7, "every_s": 10},
        "theirs": None,
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tables},
    }
    (folder / "snapshot.json").write_text(json.dumps(manifest))
    return folder / "readings.parquet"


def csv_of(folder: Path) -> Path:
    """As `eviot`, for the source csv with the shipped field map of that name."""
    return eviot(folder)


#: Source -> function that writes a small data set into a folder and returns the file that tests damage.
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "fleet": fleet,
    "matr": matr,
    "nasa_pcoe": nasa_pcoe,
    "ev_faults": ev_faults,
    "eviot": eviot,
    "csv": csv_of,
    "timescale": timescale,
}
