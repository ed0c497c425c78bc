"""Tests of the calibration to measured discharges: known parameters are found again, and real cells are predicted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.calibrate import chosen_discharges, errors_of, main, summary
from simulator.calibration.discharges import Measured, discharges_of
from simulator.calibration.fit import ACTIVATION_K, fit
from simulator.calibration.model import CalibratedCell, Trend, load_cell, predict
from telemetry.chemistries import chemistry
from telemetry.errors import TwinError
from telemetry.sources import Telemetry, read_source

NOISE_V, NOISE_C = 0.003, 0.1
FIELD_MAP = """table: readings
columns:
  id: battery_id
  time: {to: time, format: unix_s}
  voltage: voltage
  current: current
  temperature: temperature
"""


def known_cell(battery_id: str, resistance_ohm: float = 0.06, fade: float = 0.3) -> CalibratedCell:
    nmc = chemistry("NMC")
    return CalibratedCell(
        battery_id=battery_id,
        chemistry="NMC",
        ocv_soc=list(nmc.ocv_soc),
        ocv_v=list(nmc.ocv_v),
        resistance_soc=[0.0, 0.1, 0.5, 1.0],
        resistance_shape=[1.6, 1.2, 1.0, 1.0],
        series_resistance_ohm=resistance_ohm,
        fast_resistance_ohm=0.02,
        fast_time_s=30.0,
        slow_resistance_ohm=0.03,
        slow_time_s=600.0,
        activation_temperature_k=ACTIVATION_K,
        core_heat_capacity_j_per_k=38.0,
        surface_heat_capacity_j_per_k=2.7,
        core_to_surface_w_per_k=0.4,
        surface_to_ambient_w_per_k=0.06,
        entropic_soc=[0.0, 1.0],
        entropic_v_per_k=[0.0, 0.0],
        trend=Trend(
            number=[1.0, 40.0],
            log_capacity_ah=[float(np.log(2.0)), float(np.log(2.0)) - fade],
            log_resistance=[0.0, 0.4],
            usual_rest_h=5.0,
            recovery_time_h=24.0,
            recovery_decay=0.85,
            recovered_log_capacity=0.0,
            recovered_log_resistance=0.0,
        ),
    )


def write_readings(cell: CalibratedCell, file: Path, seed: int) -> None:
    """24 discharges at 2 A to 3.0 V and half an hour of rest, by the cell itself, with noise."""
    rng, parts = np.random.default_rng(seed), []
    time_s = np.arange(0.0, 6000.0, 15.0)
    for k in range(24):
        current_a = np.where(time_s > 20.0, 2.0, 0.0)
        frame = pd.DataFrame({"id": cell.battery_id, "time": time_s + 1.2e9 + k * 18000.0, "current": current_a})
        frame["voltage"], frame["temperature"] = 3.7, 25.0

        # The first run finds the time of the cutoff, the second one rests after it.
        for _ in range(2):
            telemetry = frame.assign(time=pd.to_datetime(frame["time"], unit="s", utc=True))
            one = _measured(telemetry, cell.battery_id).discharges[0]
            predicted = predict(cell, [replace(one, number=k + 1)])[0]
            below = np.flatnonzero(predicted.voltage_v < 3.0)
            last = below[0] if len(below) else len(frame) - 1
            frame = frame.iloc[: last + 120].copy()
            frame.loc[frame.index > last, "current"] = 0.0
        frame["voltage"] = predicted.voltage_v[: len(frame)] + rng.normal(0.0, NOISE_V, len(frame))
        frame["temperature"] = predicted.temperature_c[: len(frame)] + rng.normal(0.0, NOISE_C, len(frame))
        parts.append(frame)
    pd.concat(parts).to_csv(file, index=False)


def _measured(readings: pd.DataFrame, battery_id: str) -> Measured:
    full = readings.rename(columns={"id": "battery_id"}).assign(ambient_temperature=np.nan)
    batteries = pd.DataFrame(
        {"battery_id": [battery_id], "nominal_capacity_ah": [2.0], "cells_in_series": [1.0], "chemistry": ["NMC"]}
    )
    return discharges_of(Telemetry(full, pd.DataFrame(), batteries, pd.DataFrame(), len(full)), battery_id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic")
    (path / "data").mkdir()
    (path / "map.yaml").write_text(FIELD_MAP, encoding="utf-8")
    write_readings(known_cell("A"), path / "data" / "a.csv", 1)
    write_readings(known_cell("B", 0.1, 0.1), path / "data" / "b.csv", 2)
    return path


def arguments(folder: Path, *more: str) -> list[str]:
    named = ["--source", "csv", "--path", str(folder / "data"), "--field-map", str(folder / "map.yaml")]
    return [*named, "--nominal-capacity-ah", "2", *more]


def test_known_parameters_are_found_and_can_be_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "a.json"
    main(arguments(folder, "--battery", "A", "--fit-discharges", "every:3", "--out", str(out)))
    assert "unused_voltage_rmse_mv" in capsys.readouterr().out
    cell, truth = load_cell(out), known_cell("A")
    telemetry = read_source(
        "csv", folder / "data", field_map=folder / "map.yaml", defaults={"nominal_capacity_ah": 2.0}
    )
    measured = discharges_of(telemetry, "A")
    for found, known in zip(predict(cell, measured.discharges), predict(truth, measured.discharges), strict=True):
        assert found.capacity_ah == pytest.approx(known.capacity_ah, rel=0.02)
    total = cell.series_resistance_ohm + cell.fast_resistance_ohm + cell.slow_resistance_ohm
    assert total == pytest.approx(0.11, rel=0.15)
    assert cell.surface_to_ambient_w_per_k == pytest.approx(0.06, rel=0.2)
    figures = json.loads(out.read_text(encoding="utf-8"))["summary"]
    # Tolerance above the noise: the known cell's tables have other knots than the fitted ones.
    assert figures["unused_voltage_rmse_mv"] < 3.0 * 1e3 * NOISE_V
    assert figures["unused_temperature_rmse_c"] < 2.0 * NOISE_C
    # Negative control: another battery's parameters are far worse.
    other = summary(errors_of(cell, discharges_of(telemetry, "B"), []))
    assert other["unused_voltage_rmse_mv"] > 5.0 * figures["unused_voltage_rmse_mv"]


def test_predictions_do_not_use_the_voltage_or_later_temperatures(folder: Path) -> None:
    telemetry = read_source(
        "csv", folder / "data", field_map=folder / "map.yaml", defaults={"nominal_capacity_ah": 2.0}
    )
    one = discharges_of(telemetry, "A").discharges[0]
    before = predict(known_cell("A"), [one])[0]
    one.voltage_v[:] = 0.0
    one.temperature_c[1:] = 90.0
    after = predict(known_cell("A"), [one])[0]
    np.testing.assert_array_equal(before.voltage_v, after.voltage_v)
    np.testing.assert_array_equal(before.temperature_c, after.temperature_c)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--battery", "Z"), "no battery 'Z' in this source; it has A, B"),
        (("--battery", "A", "--fit-discharges", "1,2"), "2 discharges are to be fitted, but at least 5"),
        (("--battery", "A", "--fit-discharges", "1,2,99"), "no discharge 99"),
        (("--battery", "A", "--fit-discharges", "some"), "give every:4, first:80 or a list"),
    ],
)
def test_errors_name_the_remedy(folder: Path, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(TwinError, match=message):
        main(arguments(folder, *more))


def test_a_file_that_is_no_cell_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"cell": {"format": "other"}}', encoding="utf-8")
    with pytest.raises(TwinError, match="is not a calibrated cell"):
        load_cell(tmp_path / "x.json")


def test_a_real_cell_is_predicted(shared_data: Path) -> None:
    """B0005, fitted to every twelfth discharge: within 30 mV on those that were not used."""
    telemetry = read_source("nasa_pcoe", shared_data / "nasa_pcoe")
    measured = discharges_of(telemetry, "B0005")
    used = chosen_discharges("every:12", [one.number for one in measured.discharges])
    figures = summary(errors_of(fit(measured, used), measured, used))
    assert figures["unused_discharges"] == len(measured.discharges) - len(used) > 100
    assert figures["unused_voltage_rmse_mv"] < 30.0
    assert figures["unused_temperature_rmse_c"] < 1.0
    with pytest.raises(TwinError, match="only cycle summaries"):
        discharges_of(telemetry, "B0025")
