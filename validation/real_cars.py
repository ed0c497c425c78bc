"""Part `real_cars`: current, temperature and sampling of simulated cars beside those of two real ones.

    python -m validation.real_cars --ev-faults FOLDER    # writes simulator/tables/sensor_statistics.json

FOLDER has the data of the source ev_faults (BatICM: cars in service), which is not part of the repository; what is
measured on it is small and sizes the sensor model (`simulator/sensors.py`, `simulator/telematics.py`).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from rich.progress import track

from simulator.fleet import SimulateParams, simulate_battery
from simulator.sensor_statistics import TABLE
from telemetry.parameters import load_params
from telemetry.sources import read_source
from validation.plots import real_cars_plot
from validation.reading_statistics import Car
from validation.report import Result

SOURCE = "ev_faults"
DIGITS = 5
#: Of the simulated fleet of params.yaml; batteries are independent of each other.
SIMULATED = 6
#: Shown in the report: statistic and its unit.
REPORTED: tuple[tuple[str, str], ...] = (
    *((f"driving_c_rate_q{share}", "1/h") for share in (1, 5, 50, 95, 99)),
    *((f"charging_c_rate_q{share}", "1/h") for share in (5, 50, 95)),
    *((f"temperature_c_q{share}", "degC") for share in (5, 50, 95)),
    *((f"temperature_change_5min_k_q{share}", "K") for share in (1, 99)),
    *((f"probe_spread_k_q{share}", "K") for share in (50, 95)),
    *((f"cell_spread_v_q{share}", "V") for share in (50, 95)),
    ("voltage_noise_charge", "V"),
    ("cell_voltage_max_noise_rest", "V"),
    ("cell_voltage_max_noise_charge", "V"),
    ("interval_s", "s"),
    ("off_interval_share", "1"),
    ("loss_share_moving", "1"),
    ("lost_in_a_row_moving", "readings"),
    ("duplicate_share", "1"),
    ("dropout_share", "1"),
)


def real_cars(folder: Path) -> list[Car]:
    """The cars in `folder`, each with its readings in the order of the file."""
    telemetry = read_source(SOURCE, folder)
    capacity = telemetry.batteries.set_index("battery_id")["nominal_capacity_ah"]
    return [
        Car(str(name), readings, float(capacity[name])) for name, readings in telemetry.readings.groupby("battery_id")
    ]


def simulated_cars(count: int = SIMULATED) -> list[Car]:
    """The first cars of the simulated fleet of params.yaml, as it is written for training."""
    content = load_params()
    params, seed = SimulateParams.of(content), content["seed"]
    cars = []
    for index in track(range(count), "simulated cars", transient=True):
        life = simulate_battery(params, seed, index)
        row = life.row
        cars.append(Car(str(row["battery_id"]), life.readings, float(str(row["nominal_capacity_ah"]))))
    return cars


def table(cars: Sequence[Car], measured: str) -> dict[str, object]:
    """Content of the table of statistics; `measured` is the date."""
    content = {}
    for car in cars:
        first, last = (f"{time:%Y-%m-%d}" for time in (car.readings["time"].min(), car.readings["time"].max()))
        rounded = {
            name: float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
            for name, value in car.statistics().items()
        }
        content[car.name] = {"from": first, "to": last, **rounded}
    return {
        "source": "BatICM, on-road data of two cars (source ev_faults; MIT License, Copyright (c) 2025 BatICM)",
        "measured": measured,
        "definitions": "validation/reading_statistics.py",
        "cars": content,
    }


def write_table(cars: Sequence[Car], file: Path = TABLE) -> bool:
    """Write the table; the file stays the same, with its date, if no statistic has changed.  True if written."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    new = table(cars, f"{datetime.now(UTC):%Y-%m-%d}")
    if old == new | {"measured": old.get("measured")}:
        return False
    file.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    return True


def compared(real: Mapping[str, Mapping[str, float]], simulated: Sequence[Mapping[str, float]]) -> list[Result]:
    """Results of the report: the median of the simulated cars, with the real ones and the simulated range beside it."""
    results: list[Result] = []
    for name, unit in REPORTED:
        values = pd.Series([one[name] for one in simulated], dtype=float).dropna()
        beside = ", ".join(f"{car} {one[name]:.3g}" for car, one in real.items() if math.isfinite(one[name]))
        spread = f"; simulated {values.min():.3g} to {values.max():.3g}" if len(values) else ""
        results.append(
            {
                "name": f"real_cars_{name}",
                "value": float(values.median()),
                "unit": unit,
                "bound": None,
                "reference": f"median of {len(simulated)} simulated cars; real: {beside or 'not measurable'}{spread}",
            }
        )
    return results


def measure(folder: Path, plots: Path) -> list[Result]:
    """Compare simulated cars with the real ones in `folder`, and draw `real_cars.png` into the folder `plots`."""
    real, simulated = real_cars(folder), simulated_cars()
    real_cars_plot(real, simulated, plots / "real_cars.png")
    return compared({car.name: car.statistics() for car in real}, [car.statistics() for car in simulated])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the real cars and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.real_cars", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ev-faults", type=Path, required=True, metavar="FOLDER", help="data of the real cars")
    cars = real_cars(parser.parse_args(arguments).ev_faults)
    is_new = write_table(cars)
    print(f"{', '.join(car.name for car in cars)} -> {TABLE}{'' if is_new else ' (unchanged)'}")


if __name__ == "__main__":
    main()
