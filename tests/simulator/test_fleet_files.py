"""Tests of fleets in parts: reproducible, resumable, and the same telemetry as the fleet in one piece."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.labels import LabelParams
from features.table import FeatureTables, build
from features.targets import TARGETS
from pipelines import ingest, validate
from simulator.fleet import SimulateParams, main, params_of_command, simulate_fleet
from simulator.fleet_files import TABLES, TRUTH, only_writer
from simulator.reading_windows import sampled_windows
from telemetry.contract import CYCLE_FIELDS, names
from telemetry.errors import TwinError
from telemetry.parameters import load_params
from telemetry.sources import Telemetry, read_source

ROOT = Path(__file__).resolve().parents[2]
#: Faults are frequent there, so that some of these batteries fail.
PARAMS_FILE = Path(__file__).with_name("fleet_params.yaml")
SEED, VEHICLES, YEARS, WINDOWS = 11, 17, 2.5, 2
OPTIONS = ["--vehicles", f"{VEHICLES}", "--years", f"{YEARS}", "--seed", f"{SEED}", "--params", f"{PARAMS_FILE}"]
LABELS = LabelParams(min_rows=1, min_events=0)


def command(folder: Path, *options: str, windows: int | str = WINDOWS) -> list[str]:
    return [*OPTIONS, "--reading-windows", f"{windows}", "--out", str(folder), *options]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder: Path) -> Telemetry:
    return read_source("fleet", folder)


def params() -> SimulateParams:
    namespace = type("Given", (), {"vehicles": VEHICLES, "years": YEARS})
    return params_of_command(namespace, load_params(PARAMS_FILE))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet with the readings of some logs."""
    folder = tmp_path_factory.mktemp("sampled") / "fleet"
    assert main(command(folder, "--workers", "1")) == 0
    return folder


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same fleet with the readings of all logs."""
    folder = tmp_path_factory.mktemp("complete") / "fleet"
    assert main(command(folder, "--workers", "1", windows="all")) == 0
    return folder


@pytest.fixture
def copy(sampled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sampled, tmp_path / "fleet")


def test_the_files_do_not_depend_on_the_number_of_workers(sampled: Path, tmp_path: Path) -> None:
    assert main(command(tmp_path / "fleet", "--workers", "2")) == 0
    assert contents(tmp_path / "fleet") == contents(sampled)
    wanted = {f"{table}/part-{part:05d}.parquet" for table in TABLES for part in range(3)} | {"manifest.json"}
    assert set(contents(sampled)) == wanted


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition: object, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_a_killed_run_continues_and_gives_the_same_bytes(sampled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    arguments = [sys.executable, "-m", "simulator.fleet", *command(folder, "--workers", "2")]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_until(lambda: list(folder.glob("batteries/part-*.parquet")), 120.0, "the first part")
        workers = children(run.pid)
        run.kill()
    wait_until(lambda: not any(map(is_alive, workers)), 30.0, "the end of the workers of the killed run")
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/part-*.parquet")}
    assert 0 < len(finished) < 3 * len(TABLES), "the run was killed in the middle"
    (folder / "readings").mkdir(exist_ok=True)
    (folder / "readings" / ".part-00002.parquet.1.incomplete").write_bytes(b"cut")
    with pytest.raises(TwinError, match=r"is incomplete: .*part-0000\d"):
        read(folder)
    assert main(command(folder, "--workers", "1")) == 0
    assert contents(folder) == contents(sampled)
    parts = {path.name for path in folder.glob("batteries/*") if path in finished}
    kept = {path for path in finished if path.name in parts}
    assert kept
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: finished[path] for path in kept}


def test_a_part_that_was_deleted_is_made_again_and_no_other(copy: Path, sampled: Path) -> None:
    (copy / "cycles" / "part-00001.parquet").unlink()
    before = {path: path.stat().st_ino for path in copy.glob("*/part-0000[02].parquet")}
    assert main(command(copy, "--workers", "1")) == 0
    assert contents(copy) == contents(sampled)
    assert {path: path.stat().st_ino for path in before} == before


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (["--seed", "12"], "seed"),
        (["--vehicles", "21"], "simulate.batteries"),
        (["--years", "6"], "simulate.years_in_service"),
        (["--reading-windows", "3"], "reading_windows"),
    ],
)
def test_a_fleet_is_not_continued_with_other_parameters(changed: list[str], field: str, copy: Path) -> None:
    with pytest.raises(TwinError, match=f"holds a fleet with {field} ") as caught:
        main([*command(copy), *changed])
    assert caught.value.field == field


def test_a_fleet_is_not_continued_by_other_code(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"code": 1}))
    with pytest.raises(TwinError, match="holds a fleet with code 1, not"):
        main(command(copy))
    (copy / "manifest.json").write_text("{")
    with pytest.raises(TwinError, match=r"manifest\.json is damaged; delete the folder"):
        main(command(copy))


def test_other_files_and_another_writer_are_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readings.parquet").touch()
    with pytest.raises(TwinError, match="has other files and no manifest"):
        main(command(tmp_path / "other"))
    with only_writer(copy), pytest.raises(TwinError, match="another process writes a fleet"):
        main(command(copy))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vehicles", "0"], "--vehicles is 0: give a number above 0"),
        (["--years", "nan"], "--years is nan: give a number above 0"),
        (["--years", "80"], r"--years\) is 80.0: lives would begin before 1970; give at most 5\d"),
        (["--workers", "0"], "--workers is 0: give a number above 0"),
        (["--seed", "-1"], "--seed is -1: give a number of 0 or more"),
        (["--reading-windows", "some"], "--reading-windows is 'some': give a number of logs, 0 or more, or all"),
        (["--params", "none.yaml"], r"none\.yaml does not exist; name a file with a section simulate in --params"),
    ],
)
def test_an_option_out_of_range_is_an_error(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(TwinError, match=message):
        main([*command(tmp_path / "fleet"), *options])
    assert not (tmp_path / "fleet").exists()


def test_the_parts_hold_the_same_telemetry_as_the_fleet_in_one_piece(complete: Path, tmp_path: Path) -> None:
    """Through the stages `ingest` and `validate`; the parts have cycles besides."""
    whole = simulate_fleet(params(), SEED)
    (tmp_path / "raw").mkdir()
    whole.readings.to_parquet(tmp_path / "raw" / "readings.parquet", index=False)
    whole.batteries.to_parquet(tmp_path / "raw" / "batteries.parquet", index=False)
    tables = {}
    for name, folder in (("one", tmp_path / "raw"), ("parts", complete)):
        ingest.write(read(folder), "fleet", tmp_path / name / "interim")
        tables[name] = validate.validate(validate.read(tmp_path / name / "interim")[0])
    for table in ("readings", "batteries"):
        pd.testing.assert_frame_equal(getattr(tables["parts"], table), getattr(tables["one"], table))
    assert len(tables["parts"].quarantine) == len(tables["one"].quarantine) == 0
    assert len(tables["parts"].cycles) > len(tables["one"].cycles) == 0
    truth = pd.concat(map(pd.read_parquet, sorted((complete / TRUTH).iterdir())), ignore_index=True)
    pd.testing.assert_frame_equal(truth, whole.truth)


def tables_of(telemetry: Telemetry, *, with_cycles: bool = True) -> FeatureTables:
    return build(telemetry.readings, telemetry.cycles[: None if with_cycles else 0], telemetry.batteries, LABELS)


def test_no_session_is_counted_twice(complete: Path, sampled: Path) -> None:
    """With cycles, with all readings or with those of some logs: the sessions are those that readings alone give."""
    of_readings = tables_of(read(complete), with_cycles=False)
    for folder in (complete, sampled):
        of_both = tables_of(read(folder))
        assert not of_both.cycles.duplicated(["battery_id", "start_time"]).any()
        assert len(of_both.cycles) == len(of_readings.cycles) == len(read(folder).cycles)
        # Of sessions closed from readings, `build` takes the alarms from the readings.
        columns = [name for name in names(CYCLE_FIELDS) if of_readings.cycles.get(name, pd.Series()).notna().any()]
        assert {"kind", "start_time", "end_time", "soh", "resistance_ohm"} < set(columns)
        pd.testing.assert_frame_equal(of_both.cycles[columns], of_readings.cycles[columns], check_dtype=False)
        assert set(of_both.tables) == set(of_readings.tables) >= {"soh", "failure"}
        assert of_both.tables["failure"][TARGETS["failure"].label].sum() > 0
        for target in of_both.tables.keys() - {"temperature"}:
            # The age differs: the reading that closes a session after a gap has updated it.
            both, readings = (one.tables[target].drop(columns="cycles") for one in (of_both, of_readings))
            pd.testing.assert_frame_equal(both, readings, rtol=1e-9, atol=1e-12)


def test_sessions_are_lost_if_the_cycles_are_not_those_of_the_whole_life(complete: Path) -> None:
    """Negative control, and the reason for cycles of whole lives: they replace all sessions closed from readings."""
    telemetry = read(complete)
    some = telemetry.cycles[telemetry.cycles.groupby("battery_id").cumcount() % 2 == 0]
    built = build(telemetry.readings, some, telemetry.batteries, LABELS)
    assert len(built.cycles) == len(some) < len(telemetry.cycles)


def test_readings_are_whole_logs_with_the_last_one_of_each_battery(complete: Path, sampled: Path) -> None:
    every, some = (read(folder).readings.drop(columns=["source_file", "source_row"]) for folder in (complete, sampled))
    assert 0 < len(some) < len(every)
    merged = some.merge(every, how="left", indicator=True)
    assert (merged["_merge"] == "both").all()
    pd.testing.assert_series_equal(some.groupby("battery_id")["time"].max(), every.groupby("battery_id")["time"].max())
    begins = some.groupby("battery_id")["time"].diff().dt.total_seconds().fillna(1e9) > 3600.0
    assert begins.groupby(some["battery_id"]).sum().max() == WINDOWS + 1


@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    windows=st.integers(0, 40),
    seed=st.integers(0, 2**32),
    index=st.integers(0, 10**6),
)
def test_windows_are_drawn_from_all_logs_but_the_last(lengths: list[int], windows: int, seed: int, index: int) -> None:
    log = np.repeat(np.arange(len(lengths)), lengths)
    seconds = 86_400.0 * log + 30.0 * np.arange(len(log))
    times = pd.Series(pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s"))
    readings = pd.DataFrame({"time": times, "log": log})
    ends = times.groupby(log).max() - pd.Timedelta(milliseconds=1)  # the time of a reading is rounded
    kept = sampled_windows(readings, ends, windows, seed, index)
    counts = kept["log"].value_counts()
    assert len(counts) == min(windows + 1, len(lengths))
    assert counts[len(lengths) - 1] == lengths[-1]
    assert all(counts[number] == lengths[number] for number in counts.index)
    assert kept["time"].is_monotonic_increasing
    pd.testing.assert_frame_equal(kept, sampled_windows(readings, ends, windows, seed, index))


def test_the_truth_is_not_read(copy: Path, tmp_path: Path) -> None:
    """What `ingest` writes is the same with another truth or none, and has no column of it."""
    shutil.copytree(copy, tmp_path / "none")
    shutil.rmtree(tmp_path / "none" / TRUTH)
    for part in (copy / TRUTH).iterdir():
        part.write_bytes(b"not Parquet")
    written = []
    for name in ("fleet", "none"):
        ingest.write(read(tmp_path / name), "fleet", tmp_path / "interim" / name)
        written.append(contents(tmp_path / "interim" / name))
    assert written[0] == written[1]
    for path in (tmp_path / "interim" / "none").glob("*.parquet"):
        assert not {"cumulative_hazard", "fault", "severity", "has_failed"} & set(pd.read_parquet(path).columns)


def test_missing_and_damaged_parts_are_errors(copy: Path) -> None:
    part = copy / "readings" / "part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    with pytest.raises(
        TwinError, match=r"readings/part-00001.parquet is not a readable Parquet file; delete this file"
    ):
        read(copy)
    pd.read_parquet(copy / "readings" / "part-00000.parquet").drop(columns="current").to_parquet(part)
    with pytest.raises(TwinError, match=r"readings/part-00001.parquet lacks the column current"):
        read(copy)
    part.unlink()
    with pytest.raises(TwinError, match=r"incomplete: readings/part-00001\.parquet and 0 other files of 9 are missing"):
        read(copy)
    part.write_bytes(whole)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"layout": 2}))
    with pytest.raises(TwinError, match="has the layout 2, but this version reads 1"):
        read(copy)
    (copy / "manifest.json").write_text("[]")
    with pytest.raises(TwinError, match="is no manifest of a simulated fleet"):
        read(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(TwinError, match=r"manifest\.json does not exist, so that the parts in readings/"):
        read(copy)
