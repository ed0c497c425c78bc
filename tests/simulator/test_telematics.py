"""Tests of the telematics unit: the same messages from a table and one by one, and what is quarantined."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.simulate import write_fleet
from pipelines.validate import write
from simulator.fleet import SimulatedFleet, SimulateParams, batteries_table, simulate_battery
from simulator.messages import TelematicsParameters
from simulator.telematics import Telematics, draw_telematics
from telemetry.contract import READING_FIELDS, READING_REQUIRED, names
from telemetry.errors import TwinError
from telemetry.sources.simulated_fleet import SOURCE
from telemetry.validation import ValidationResult, validate

#: Everything happens often.
BUSY = TelematicsParameters(
    interval_s=30.0,
    time_step_s=1.0,
    off_interval_share=0.1,
    off_interval_s=2.0,
    loss_share_moving=0.05,
    loss_share_standing=0.02,
    lost_in_a_row=4.0,
    frozen_share=0.02,
    frozen_in_a_row=3.0,
    stuck_share=0.02,
    stuck_in_a_row=10.0,
    dropout_share=0.02,
    dropped_in_a_row=10.0,
    duplicate_share=0.03,
    late_share=0.02,
    late_by=2.0,
    clock_share=0.005,
    clock_in_a_row=10.0,
)
OPTIONAL = [name for name in names(READING_FIELDS) if name not in READING_REQUIRED]


@pytest.fixture(scope="module")
def battery() -> tuple[pd.DataFrame, dict[str, object]]:
    """Readings of one simulated battery, every 30 s, as its sensors measure them; and its row."""
    life = simulate_battery(SimulateParams(batteries=1), 7, 0)
    return life.readings[:4000].reset_index(drop=True), life.row


@pytest.fixture(scope="module")
def readings(battery: tuple[pd.DataFrame, dict[str, object]]) -> pd.DataFrame:
    return battery[0]


def unit(seed: int = 4, **rates: float) -> Telematics:
    return Telematics(TelematicsParameters(**rates), np.random.default_rng(seed))


def without_faults(readings: pd.DataFrame, count: int, seconds: float) -> pd.DataFrame:
    """`count` readings of a car that moves, at even times from a whole second on."""
    some = readings.iloc[[100] * count].reset_index(drop=True)
    times = pd.Timestamp("2024-05-01T00:00:00Z") + pd.to_timedelta(seconds * np.arange(count), unit="s")
    return some.assign(time=times.as_unit("us"), voltage=300.0 + 0.01 * np.arange(count), speed_kmh=30.0)


def test_a_unit_without_faults_changes_nothing(readings: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(unit().table(readings), readings)
    scaled = draw_telematics(np.random.default_rng(1), fault_scale=0.0)
    pd.testing.assert_frame_equal(Telematics(scaled, np.random.default_rng(1)).table(readings), readings)
    assert unit().table(readings[:0]).empty


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_portions_and_single_readings_give_the_same(readings: pd.DataFrame, seed: int, cuts: list[int]) -> None:
    some = readings[:200]
    at_once = Telematics(BUSY, np.random.default_rng(seed)).table(some)
    portioned = Telematics(BUSY, np.random.default_rng(seed))
    parts = [portioned.table(some[a:b]) for a, b in pairwise([0, *sorted(cuts), 200])]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), at_once)

    single = Telematics(BUSY, np.random.default_rng(seed))
    rows = some.assign(time=some["time"].dt.to_pydatetime()).to_dict("records")
    messages = [message for row in rows for message in single.send({str(name): row[name] for name in row})]
    assert [message["time"] for message in messages] == list(at_once["time"].dt.to_pydatetime())
    for name in names(READING_FIELDS)[2:]:
        got = np.array([math.nan if one[name] is None else one[name] for one in messages], dtype=np.float64)
        np.testing.assert_array_equal(got, at_once[name].to_numpy(), err_msg=name)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.floats(0.0, 2000.0), interval=st.sampled_from([(), (0.5,), (30.0, 900.0)]))
def test_messages_stay_in_the_contract(
    readings: pd.DataFrame, seed: int, scale: float, interval: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(seed)
    sent = Telematics(draw_telematics(rng, interval, scale), rng).table(readings[:500])
    assert list(sent.columns) == list(readings.columns)
    assert sent.dtypes.equals(readings.dtypes)
    assert len(sent) <= 2 * 500 + 1
    assert not sent[list(READING_REQUIRED)].isna().any().any()
    for field in READING_FIELDS:
        if field.minimum is not None:
            assert all(field.allows(value) for value in sent[field.name]), field.name


@pytest.mark.parametrize(
    ("sampling_s", "interval_s", "expected_s"),
    [(0.5, 0.5, 0.5), (0.5, 10.0, 10.0), (10.0, 30.0, 30.0), (10.0, 900.0, 900.0), (30.0, 45.0, 45.0)],
)
def test_the_unit_reports_at_its_interval(
    readings: pd.DataFrame, sampling_s: float, interval_s: float, expected_s: float
) -> None:
    sent = unit(interval_s=interval_s).table(without_faults(readings, 2000, sampling_s))
    intervals = sent["time"].diff().dt.total_seconds().dropna()
    assert intervals.mean() == pytest.approx(expected_s, rel=0.02)
    assert (intervals - expected_s).abs().max() < sampling_s


def test_lost_messages_are_as_many_as_drawn(readings: pd.DataFrame) -> None:
    steady = without_faults(readings, 20_000, 30.0)
    sent = unit(loss_share_moving=0.05, lost_in_a_row=4.0).table(steady)
    gaps = sent["time"].diff().dt.total_seconds().dropna() / 30.0 - 1.0
    assert (gaps > 0).mean() == pytest.approx(0.05, rel=0.1)
    assert gaps[gaps > 0].mean() == pytest.approx(4.0, rel=0.1)
    standing = unit(loss_share_moving=0.05, lost_in_a_row=4.0).table(steady.assign(speed_kmh=0.0))
    assert len(standing) == len(steady)


def test_duplicates_late_readings_and_wrong_clocks(readings: pd.DataFrame) -> None:
    steady = without_faults(readings, 5000, 30.0)
    doubled = unit(duplicate_share=0.02).table(steady)
    assert len(doubled) - len(steady) == doubled.duplicated().sum() == pytest.approx(100, rel=0.3)
    pd.testing.assert_frame_equal(doubled.drop_duplicates(ignore_index=True), steady)

    late = unit(late_share=0.02, late_by=2.0).table(steady)
    assert not late["time"].is_monotonic_increasing
    in_order = late.sort_values("time", ignore_index=True)
    pd.testing.assert_frame_equal(in_order, steady[: len(in_order)])

    wrong = unit(clock_share=0.002, clock_in_a_row=20.0).table(steady)
    offset_s = (wrong["time"] - steady["time"]).dt.total_seconds()
    assert (offset_s != 0.0).mean() == pytest.approx(0.04, rel=0.6)
    assert offset_s[offset_s != 0.0].abs().between(10.0, 86_400.0).all()
    assert offset_s.iloc[-1] == 0.0 or offset_s.eq(0.0).any()  # corrected later
    assert wrong.drop(columns="time").equals(steady.drop(columns="time"))


def test_frozen_stuck_and_dropped_values(readings: pd.DataFrame) -> None:
    steady = without_faults(readings, 5000, 30.0).assign(current=np.arange(5000) * 0.01)
    frozen = unit(frozen_share=0.01, frozen_in_a_row=3.0).table(steady)
    assert frozen["time"].equals(steady["time"])
    repeated = (frozen["voltage"].diff() == 0.0) & (frozen["current"].diff() == 0.0)
    assert repeated.mean() == pytest.approx(0.03, rel=0.3)

    stuck = unit(stuck_share=0.01, stuck_in_a_row=10.0).table(steady)
    changed = [name for name in stuck if not stuck[name].equals(steady[name])]
    assert {"voltage", "current"} <= set(changed) <= {"voltage", "current", "power_consumption"}
    assert (stuck["voltage"].diff() == 0.0).mean() == pytest.approx(0.1 / 1.1 / 7.0, rel=0.5)

    dropped = unit(dropout_share=0.01, dropped_in_a_row=10.0).table(steady)
    missing = [name for name in names(READING_FIELDS) if dropped[name].isna().any() and not steady[name].isna().any()]
    assert len(missing) > 5
    assert set(missing) <= set(OPTIONAL)


def validated(sent: pd.DataFrame, row: dict[str, object], folder: Path) -> ValidationResult:
    fleet = SimulatedFleet(sent, batteries_table([row]), pd.DataFrame())
    write_fleet(fleet, folder / "raw", folder / "truth.parquet")
    result = validate(SOURCE.read(folder / "raw", None))
    write(result, "fleet", folder / "validated", folder / "quarantine", folder / "reports")
    return result


@pytest.mark.parametrize("kind", ["duplicate_share", "late_share", "clock_share", "loss_share_moving", "dropout_share"])
def test_validation_quarantines_what_is_faulty_and_no_more(
    battery: tuple[pd.DataFrame, dict[str, object]], tmp_path: Path, kind: str
) -> None:
    readings, row = battery
    sent = unit(**{kind: 0.005}, dropped_in_a_row=20.0, lost_in_a_row=3.0, clock_in_a_row=5.0).table(readings)
    result = validated(sent, row, tmp_path)
    assert len(result.readings) + len(result.quarantine) == len(sent)
    assert result.readings["time"].is_monotonic_increasing
    known = set(readings["time"])
    faulty = {
        "duplicate_share": int(sent["time"].duplicated().sum()),
        "late_share": int((sent["time"].diff().dt.total_seconds() < 0.0).sum()),
        "clock_share": sum(time not in known for time in sent["time"]),
    }.get(kind, 0)
    assert (faulty > 0) == (kind in ("duplicate_share", "late_share", "clock_share"))
    if kind == "clock_share":
        # A clock that is a little ahead may be in order with what follows.
        assert 0 < len(result.quarantine) <= faulty
    else:
        assert len(result.quarantine) == faulty
    assert not result.quarantine["reason"].str.contains("missing").any()


def test_a_busy_unit_passes_the_pipeline(battery: tuple[pd.DataFrame, dict[str, object]], tmp_path: Path) -> None:
    readings, row = battery
    sent = Telematics(BUSY, np.random.default_rng(1)).table(readings)
    result = validated(sent, row, tmp_path)
    assert 0.8 * len(sent) < len(result.readings) < len(sent)
    assert result.refused is None


@pytest.mark.parametrize("interval_s", [0.4, 901.0, float("nan")])
def test_an_interval_out_of_range_is_refused(interval_s: float) -> None:
    with pytest.raises(TwinError, match=r"between 0\.5 and 900 s"):
        draw_telematics(np.random.default_rng(1), [interval_s])
    with pytest.raises(TwinError, match="fault_scale is -1"):
        draw_telematics(np.random.default_rng(1), fault_scale=-1.0)


def test_a_reading_without_time_is_refused() -> None:
    with pytest.raises(TwinError, match="time is None"):
        unit().send({"battery_id": "EV-1", "time": None})
