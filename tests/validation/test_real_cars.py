"""Tests of the statistics of readings, of their table, and of the part of the validation that needs the real cars."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.messages import TelematicsParameters
from simulator.sensor_statistics import TABLE, stored
from simulator.telematics import Telematics
from telemetry.contract import READING_FIELDS, names
from validation.__main__ import main
from validation.plots import real_cars_plot
from validation.reading_statistics import Car, statistics
from validation.real_cars import compared, real_cars, table, write_table

CAPACITY_AH = 120.0


def steady_car(count: int = 6000, interval_s: float = 10.0, seed: int = 3) -> pd.DataFrame:
    """A car that drives for the first half and charges with a constant current in the second."""
    rng = np.random.default_rng(seed)
    drives = np.arange(count) < count // 2
    current = np.where(drives, np.round(rng.normal(20.0, 30.0, count), 1), -60.0)
    readings = pd.DataFrame({name: np.full(count, np.nan) for name in names(READING_FIELDS)})
    return readings.assign(
        battery_id="car",
        time=pd.Timestamp("2024-05-01T00:00:00Z") + pd.to_timedelta(interval_s * np.arange(count), unit="s"),
        voltage=np.round(350.0 + rng.normal(0.0, 0.3, count), 1),
        current=current,
        temperature=np.round(25.0 + rng.normal(0.0, 1.0, count)),
        temperature_min=24.0,
        soc=50.0,
        is_charging=(~drives).astype(float),
        cell_voltage_min=3.6,
        cell_voltage_max=np.round(3.65 + rng.normal(0.0, 0.002, count), 3),
        speed_kmh=np.where(drives, np.round(rng.uniform(20.0, 60.0, count), 1), 0.0),
        odometer_km=1000.0,
    )


def test_statistics_find_what_was_put_in() -> None:
    found = statistics(steady_car(), CAPACITY_AH)
    assert found["interval_s"] == 10.0
    assert (found["voltage_step"], found["current_step"], found["cell_voltage_max_step"]) == (0.1, 0.1, 0.001)
    assert found["voltage_noise_charge"] == pytest.approx(0.3, rel=0.15)
    assert found["cell_voltage_max_noise_charge"] == pytest.approx(0.002, rel=0.15)
    assert found["driving_c_rate_q50"] == pytest.approx(20.0 / CAPACITY_AH, abs=0.02)
    assert found["driving_c_rate_q95"] == pytest.approx((20.0 + 1.645 * 30.0) / CAPACITY_AH, rel=0.08)
    assert found["charging_c_rate_q50"] == -0.5
    assert np.isnan(found["voltage_noise_rest"])
    for name in ("loss_share_moving", "loss_share_standing", "duplicate_share", "dropout_share", "frozen_share"):
        assert found[name] == 0.0, name


def test_statistics_find_the_rates_of_a_unit() -> None:
    unit = TelematicsParameters(
        interval_s=10.0,
        off_interval_share=0.01,
        off_interval_s=1.0,
        loss_share_moving=0.03,
        loss_share_standing=0.01,
        lost_in_a_row=3.0,
        frozen_share=0.005,
        dropout_share=0.002,
        dropped_in_a_row=20.0,
        duplicate_share=0.01,
    )
    sent = Telematics(unit, np.random.default_rng(2)).table(steady_car(40_000))
    found = statistics(sent, CAPACITY_AH)
    assert found["loss_share_moving"] == pytest.approx(0.03, rel=0.2)
    assert found["loss_share_standing"] == pytest.approx(0.01, rel=0.35)
    assert found["lost_in_a_row_moving"] == pytest.approx(3.0, rel=0.15)
    assert found["duplicate_share"] == pytest.approx(0.01, rel=0.2)
    assert found["off_interval_share"] == pytest.approx(0.02, rel=0.3)  # one that is late makes two unusual intervals
    assert found["off_interval_s"] == 1.0
    assert found["frozen_share"] > 0.0
    assert found["dropout_share"] > 0.0
    assert found["dropped_in_a_row"] == pytest.approx(20.0, rel=0.4)
    assert found["backward_share"] == 0.0


def test_results_name_the_real_cars_beside_the_simulated() -> None:
    found = statistics(steady_car(), CAPACITY_AH)
    results = compared({"car2": found}, [found, found])
    assert all(one["name"].startswith("real_cars_") and one["bound"] is None for one in results)
    first = next(one for one in results if one["name"] == "real_cars_interval_s")
    assert first["value"] == 10.0
    assert "real: car2 10;" in first["reference"]


def test_the_table_keeps_its_date_while_nothing_changes(tmp_path: Path) -> None:
    cars, file = [Car("car", steady_car(), CAPACITY_AH)], tmp_path / "table.json"
    assert write_table(cars, file)
    dated = json.loads(file.read_text(encoding="utf-8")) | {"measured": "2020-01-01"}
    file.write_text(json.dumps(dated), encoding="utf-8")
    assert not write_table(cars, file)
    assert json.loads(file.read_text(encoding="utf-8"))["measured"] == "2020-01-01"
    assert write_table([Car("car", steady_car(seed=4), CAPACITY_AH)], file)
    assert json.loads(file.read_text(encoding="utf-8"))["measured"] != "2020-01-01"


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    car = Car("car", steady_car(600), CAPACITY_AH)
    real_cars_plot([car], [car], tmp_path / "real_cars.png")
    assert (tmp_path / "real_cars.png").read_bytes().startswith(b"\x89PNG")


def test_the_part_needs_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["real_cars"], tmp_path, {})
    assert "add --ev-faults FOLDER" in capsys.readouterr().err


def test_the_committed_table_is_that_of_the_real_cars(shared_data: Path) -> None:
    folder = shared_data / "ev_faults"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data/ev_faults does not exist")
    assert TABLE.stat().st_size < 10_000
    assert table(real_cars(folder), stored()["measured"]) == stored()
