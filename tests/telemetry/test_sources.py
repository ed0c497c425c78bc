"""Every source on a small file in its layout, on damaged files, and on the real data where available."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.contract import BATTERY_FIELDS, CYCLE_FIELDS, READING_FIELDS, names
from telemetry.errors import TwinError
from telemetry.sign_test import sign_verdicts
from telemetry.sources import SOURCES, Telemetry, read_source
from telemetry.validation import validate
from telemetry.validation_report import summary
from tests.telemetry import source_files as files

TEXT_SOURCES = sorted(set(files.LAYOUTS) - {"fleet", "timescale"})
FIELD_MAPS = {"csv": "eviot"}


def read(name: str, folder: Path, **settings: object) -> Telemetry:
    return read_source(name, folder, field_map=FIELD_MAPS.get(name), **settings)


def assert_conserved(telemetry: Telemetry) -> None:
    kept = len(telemetry.readings) + len(telemetry.cycles)
    rejected = telemetry.rejected
    assert kept + len(rejected) == telemetry.rows_read
    assert len(rejected.drop_duplicates(["source_file", "row"])) == len(rejected)
    assert (rejected["reason"] != "").all()


def one_sentence(error: TwinError) -> str:
    assert "\n" not in error.sentence
    assert "Traceback" not in error.sentence
    return error.sentence


def test_every_source_has_a_test_layout() -> None:
    assert set(SOURCES) == set(files.LAYOUTS)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_source_reads_a_small_file(name: str, tmp_path: Path) -> None:
    files.LAYOUTS[name](tmp_path)
    telemetry = read(name, tmp_path)
    assert_conserved(telemetry)
    assert telemetry.rows_read > 0
    assert list(telemetry.readings)[: len(READING_FIELDS)] == names(READING_FIELDS)
    assert list(telemetry.cycles)[: len(CYCLE_FIELDS)] == names(CYCLE_FIELDS)
    assert list(telemetry.batteries) == names(BATTERY_FIELDS)
    assert str(telemetry.readings["time"].dtype) == "datetime64[us, UTC]"
    used = set(telemetry.readings["battery_id"]) | set(telemetry.cycles["battery_id"])
    assert used <= set(telemetry.batteries["battery_id"])
    assert telemetry.batteries["battery_id"].is_unique


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_missing_folder_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(TwinError) as caught:
        read(name, tmp_path / "nowhere")
    assert caught.value.field == "source.path"
    one_sentence(caught.value)


@pytest.mark.parametrize("name", sorted(SOURCES))
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe\x00" * 50, b"just one line of prose"], ids=["empty", "binary", "prose"]
)
def test_file_of_another_kind_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    damaged = files.LAYOUTS[name](tmp_path)
    damaged.write_bytes(content)
    with pytest.raises(TwinError) as caught:
        read(name, tmp_path)
    assert damaged.name in one_sentence(caught.value)


@pytest.mark.parametrize("name", [n for n in TEXT_SOURCES if n != "ev_faults"])
def test_missing_column_is_an_error(name: str, tmp_path: Path) -> None:
    damaged = files.LAYOUTS[name](tmp_path)
    lines = damaged.read_text().splitlines()
    missing = {"matr": "capacity", "nasa_pcoe": "Voltage_measured"}.get(name, "Battery_Voltage")
    damaged.write_text("\n".join([lines[0].replace(missing, "other"), *lines[1:]]))
    with pytest.raises(TwinError, match=f"lacks the column {missing} .*correct the file or its field map"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", [n for n in TEXT_SOURCES if n != "ev_faults"])
def test_file_with_one_row_is_read_and_without_rows_is_an_error(name: str, tmp_path: Path) -> None:
    damaged = files.LAYOUTS[name](tmp_path)
    lines = damaged.read_text().splitlines()
    damaged.write_text("\n".join(lines[:2]))
    telemetry = read(name, tmp_path)
    assert_conserved(telemetry)
    origin = pd.concat([telemetry.readings["source_file"], telemetry.cycles["source_file"]])
    assert (origin == damaged.name).sum() == 1
    damaged.write_text(lines[0] + "\n")
    with pytest.raises(TwinError, match="has a header but no rows"):
        read(name, tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_zip_is_an_error(share: float, tmp_path: Path) -> None:
    archive = files.ev_faults(tmp_path)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(TwinError, match=r"car3_processed\.zip.* damaged or truncated zip; download it again"):
        read("ev_faults", tmp_path)


def test_corrupted_zip_member_is_an_error(tmp_path: Path) -> None:
    archive = files.ev_faults(tmp_path)
    content = bytearray(archive.read_bytes())
    content[200:260] = b"\x00" * 60
    archive.write_bytes(content)
    with pytest.raises(TwinError, match="damaged or truncated zip"):
        read("ev_faults", tmp_path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from([n for n in TEXT_SOURCES if n != "ev_faults"]))
def test_rows_are_conserved_under_random_damage(
    data: st.DataObject, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(name)
    damaged = files.LAYOUTS[name](folder)
    header, *lines = damaged.read_text().splitlines()
    intact = read(name, folder).rows_read
    for line in data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=8)):
        cells = lines[line].split(",")
        cell = data.draw(st.integers(0, len(cells) - 1))
        new = data.draw(st.sampled_from(["", "NaN", "abc", "1e999", "-1", "1,2", "2020-13-45", "∞", "[]"]))
        lines[line] = ",".join([*cells[:cell], new, *cells[cell + 1 :]])
    damaged.write_text("\n".join([header, *lines]))
    telemetry = read(name, folder)
    assert_conserved(telemetry)
    assert telemetry.rows_read == intact


def test_row_with_text_in_a_number_is_rejected_with_its_content(tmp_path: Path) -> None:
    table = files.car().astype({"BMSBatteryVoltage": "object"})
    table.loc[6, "BMSBatteryVoltage"] = "fault"
    files.ev_faults(tmp_path, table)
    rejected = read("ev_faults", tmp_path).rejected
    assert rejected.to_dict("records") == [
        {
            "table": "readings",
            "source_file": "car3_processed.zip/car3_processed.csv",
            "row": 7,
            "field": "voltage",
            "value": "fault",
            "reason": "voltage: not a number",
            "content": rejected["content"].iloc[0],
        }
    ]
    content = json.loads(rejected["content"].iloc[0])
    assert content["BMSBatteryVoltage"] == "fault"
    assert len(content) > 10, "the other cells are included"


GERMAN = """columns:
  Zeit: {to: time, format: "%d.%m.%Y %H:%M", zone: UTC}
  Spannung: voltage
  Strom: current
  "°C": temperature
delimiter: ";"
"""
GERMAN_ROWS = "Zeit;Spannung;Strom;°C\n01.02.2026 08:00;361,2;-40,5;21,5\n01.02.2026 08:01;361,3;-40,5\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_csv_of_a_localized_excel_is_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "EV-1.csv").write_bytes(GERMAN_ROWS.encode(encoding))
    field_map = tmp_path / "map.yaml"
    option = "" if encoding == "utf-8-sig" else f"encoding: {encoding}\n"
    field_map.write_text(f'{GERMAN}decimal: ","\n{option}')
    telemetry = read_source("csv", tmp_path, field_map=field_map)
    row = telemetry.readings.iloc[0]
    assert (row["voltage"], row["current"], row["temperature"]) == (361.2, -40.5, 21.5)
    malformed = telemetry.rejected.iloc[0]
    assert (malformed["row"], malformed["reason"]) == (2, "3 cells, the header has 4")
    assert json.loads(malformed["content"]) == ["01.02.2026 08:01", "361,3", "-40,5"]


@pytest.mark.parametrize(
    ("encoding", "option", "hint"),
    [
        ("cp1252", "", "not a CSV file in UTF-8; set `encoding` in the field map"),
        ("utf-16", "", "not a CSV file in UTF-8; set `encoding` in the field map"),
        ("utf-8", "encoding: utf-16\n", "not a CSV file in utf-16; set `encoding`"),
        ("utf-8", 'delimiter: ","\n', 'set `delimiter: ";"` in the field map'),
    ],
)
def test_error_suggests_encoding_or_delimiter(encoding: str, option: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "EV-1.csv").write_bytes(GERMAN_ROWS.encode(encoding))
    field_map = tmp_path / "map.yaml"
    field_map.write_text((GERMAN.replace('delimiter: ";"\n', "") if "delimiter" in option else GERMAN) + option)
    with pytest.raises(TwinError) as caught:
        read_source("csv", tmp_path, field_map=field_map)
    assert hint in one_sentence(caught.value)


def test_error_suggests_tab_as_delimiter(tmp_path: Path) -> None:
    (tmp_path / "EV-1.csv").write_text(GERMAN_ROWS.replace(";", "\t"))
    field_map = tmp_path / "map.yaml"
    field_map.write_text(GERMAN)
    with pytest.raises(TwinError) as caught:
        read_source("csv", tmp_path, field_map=field_map)
    assert 'set `delimiter: "\\t"` in the field map' in one_sentence(caught.value)


def test_matr_rows_are_cycles(tmp_path: Path) -> None:
    files.matr(tmp_path)
    telemetry = read("matr", tmp_path)
    first = telemetry.cycles[telemetry.cycles["battery_id"] == "2017-05-12_battery-1"]
    assert first["cycle_index"].tolist() == list(range(1, 13))
    assert set(first["capacity_method"]) == {"measured"}
    assert first["cc_charge_ah"].iloc[0] == pytest.approx(0.04)
    assert telemetry.batteries["nominal_capacity_ah"].tolist() == [1.1, 1.1]
    assert SOURCES["matr"].target_defaults == {"eol_fraction": 0.85}


def test_default_of_the_source_can_be_overridden(tmp_path: Path) -> None:
    files.matr(tmp_path)
    telemetry = read("matr", tmp_path, defaults={"nominal_capacity_ah": 2.0, "chemistry": None})
    assert telemetry.batteries["nominal_capacity_ah"].tolist() == [2.0, 2.0]
    assert telemetry.batteries["chemistry"].tolist() == ["LFP", "LFP"]


def test_nasa_times_sign_and_capacities(tmp_path: Path) -> None:
    files.nasa_pcoe(tmp_path)
    telemetry = read("nasa_pcoe", tmp_path)
    readings = telemetry.readings
    assert readings["time"].iloc[0] == pd.Timestamp("2008-04-02 15:25:41.593", tz="UTC")
    assert readings["time"].iloc[1] - readings["time"].iloc[0] == pd.Timedelta("18.7s")
    assert readings["time"].iloc[40] == pd.Timestamp("2008-04-02 19:43:48.406", tz="UTC")
    assert readings["current"].max() == 2.0, "positive while discharging"
    assert readings["charge_cycles"].unique().tolist() == [1.0, 2.0]
    assert set(readings["ambient_temperature"]) == {24.0}
    cycles = telemetry.cycles
    assert cycles[["battery_id", "cycle_index"]].to_numpy().tolist() == [["B0005", 1.0], ["B0005", 2.0], ["B0047", 4.0]]
    assert telemetry.rejected["value"].tolist() == ["[]", "0", "0.04"]
    assert telemetry.rejected["row"].tolist() == [5, 6, 7]
    assert any("1 charge, 1 impedance tests" in note for note in telemetry.notes)


def test_nasa_row_of_a_test_absent_from_the_metadata_is_rejected(tmp_path: Path) -> None:
    damaged = files.nasa_pcoe(tmp_path)
    table = pd.read_csv(damaged)
    table.loc[3, "cycle_idx"] = 99
    table.to_csv(damaged, index=False)
    telemetry = read("nasa_pcoe", tmp_path)
    assert_conserved(telemetry)
    row = telemetry.rejected.iloc[0]
    assert (row["row"], row["field"]) == (4, "time")
    assert "test 99" in row["value"]


def test_known_faults_of_car_files_are_repaired_and_noted(tmp_path: Path) -> None:
    table = files.car()
    table.loc[:4, "vehOdo"] = 0.0
    table.loc[:9, "BMSChargeStatus"] = np.nan
    table.loc[10:19, "BMSChargeStatus"] = 1.0
    table.loc[20:29, "BMSChargeStatus"] = 4.0
    files.ev_faults(tmp_path, table)
    telemetry = read("ev_faults", tmp_path)
    readings = telemetry.readings
    assert len(readings) == 400
    assert readings["odometer_km"].isna().sum() == 5
    assert readings["is_charging"].isna().sum() == 10
    assert readings["is_charging"].sum() == 10
    assert readings["temperature"].eq(25.0).all(), "not the probes with the offset"
    assert readings["time"].iloc[0] == pd.Timestamp("2019-04-15 10:00:00", tz="UTC")
    assert readings["insulation_resistance"].eq(500.0).all(), "converted from MOhm to kOhm"
    assert telemetry.batteries["cells_in_series"].tolist() == [4.0]
    assert telemetry.batteries["battery_id"].tolist() == ["car3"]
    notes = " ".join(telemetry.notes)
    for expected in (
        "vehOdo is 0.0 in 5 rows",
        "BMSChargeStatus is empty in 10 rows",
        "+08:00 is assumed",
        "120 Ah is assumed",
    ):
        assert expected in notes


def test_zipped_and_extracted_car_give_the_same_battery(tmp_path: Path) -> None:
    files.ev_faults(tmp_path / "zipped")
    (tmp_path / "plain").mkdir()
    files.car().to_csv(tmp_path / "plain" / "car3_processed.csv", index=False)
    zipped, plain = (
        read("ev_faults", tmp_path / kind).readings.drop(columns="source_file") for kind in ("zipped", "plain")
    )
    pd.testing.assert_frame_equal(zipped, plain)
    files.car().to_csv(tmp_path / "zipped" / "car3_processed.csv", index=False)
    with pytest.raises(TwinError, match=r"'car3_processed.csv' and 'car3_processed.zip/.*' both give .* car3"):
        read("ev_faults", tmp_path / "zipped")


@pytest.mark.parametrize(
    ("first", "second"),
    [("EV 7", "EV-7"), ("EV-7 (1)", "EV-7 [1]"), ("a" * 50 + "1", "a" * 50 + "2"), ("Bär", "Bör")],
)
@pytest.mark.parametrize("table", ["readings", "cycles"])
def test_two_files_that_would_become_one_battery_are_refused(
    tmp_path: Path, first: str, second: str, table: str
) -> None:
    own_map = tmp_path / "map.yaml"
    if table == "readings":
        own_map.write_text(
            "table: readings\ncolumns: {t: {to: time, zone: UTC}, v: voltage, i: current, c: temperature}\n"
        )
        row = "t,v,i,c\n2026-01-01T00:00:00,360,1,20\n"
    else:
        own_map.write_text("table: cycles\ncolumns: {q: capacity_ah}\n")
        row = "q\n1.0\n"
    data = tmp_path / "data"
    data.mkdir()
    (data / f"{first}.csv").write_text(row)
    read_source("csv", data, field_map=own_map)
    (data / f"{second}.csv").write_text(row)
    with pytest.raises(TwinError) as error:
        read_source("csv", data, field_map=own_map)
    assert f"{first}.csv" in error.value.sentence
    assert f"{second}.csv" in error.value.sentence


def test_files_may_hold_parts_of_a_battery_that_a_column_names(tmp_path: Path) -> None:
    own_map = tmp_path / "map.yaml"
    own_map.write_text("table: cycles\ncolumns: {q: capacity_ah, cell: battery_id, n: cycle_index}\n")
    data = tmp_path / "data"
    data.mkdir()
    for part in (1, 2):
        (data / f"{'x' * 50}{part}.csv").write_text(f"q,cell,n\n1.0,B1,{part}\n")
    assert read_source("csv", data, field_map=own_map).cycles["battery_id"].tolist() == ["B1", "B1"]


def test_title_row_is_skipped(tmp_path: Path) -> None:
    files.eviot(tmp_path / "a")
    files.eviot(tmp_path / "b", title=True)
    without, with_title = (read("eviot", tmp_path / folder).readings for folder in "ab")
    pd.testing.assert_frame_equal(without, with_title)
    assert without["soc"].between(10.0, 90.0).all(), "converted from fractions to percent"
    assert set(without["warning_level"]) == {0.0, 3.0}
    assert set(without["battery_id"]) == {"eviot"}


def test_csv_needs_a_field_map(tmp_path: Path) -> None:
    files.eviot(tmp_path)
    with pytest.raises(TwinError, match=r"set source\.field_map"):
        read_source("csv", tmp_path)


def test_file_with_the_newest_reading_first_is_reversed(tmp_path: Path) -> None:
    path = files.eviot(tmp_path)
    header, *lines = path.read_text().splitlines()
    before = read("eviot", path).readings
    path.write_text("\n".join([header, *reversed(lines)]))
    telemetry = read("eviot", path)
    pd.testing.assert_frame_equal(telemetry.readings.drop(columns="source_row"), before.drop(columns="source_row"))
    assert telemetry.readings["source_row"].iloc[0] == 50
    assert any("newest reading comes first" in note for note in telemetry.notes)


def test_cycles_are_read_through_a_field_map(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(
        "table: cycles\ncolumns: {n: cycle_index, cell: battery_id, Q: {to: capacity_ah, unit: mAh}}\ndelimiter: ';'\n"
    )
    (tmp_path / "cells.csv").write_text("cell;n;Q\nA;1;2000\nA;2;1990\nB;1;2010\n")
    telemetry = read_source("csv", tmp_path / "cells.csv", field_map=tmp_path / "map.yaml")
    assert telemetry.cycles["capacity_ah"].tolist() == pytest.approx([2.0, 1.99, 2.01])
    assert telemetry.batteries["battery_id"].tolist() == ["A", "B"]


def test_batteries_table_takes_precedence_over_source_and_defaults(tmp_path: Path) -> None:
    files.fleet(tmp_path)
    table = tmp_path / "what.csv"
    table.write_text("battery_id,nominal_capacity_ah,chemistry,colour\nEV-1,60,lfp,red\nEV-9,1,,blue\n")
    telemetry = read("fleet", tmp_path, batteries=table, defaults={"cells_in_series": 96})
    batteries = telemetry.batteries.set_index("battery_id")
    assert batteries.loc["EV-1", ["nominal_capacity_ah", "chemistry"]].tolist() == [60.0, "LFP"]
    assert batteries.loc["EV-2", ["nominal_capacity_ah", "chemistry"]].tolist() == [150.0, "NMC"]
    assert batteries["cells_in_series"].tolist() == [96.0, 96.0]
    assert any("EV-9" in note for note in telemetry.notes)
    assert any("colour" in note for note in telemetry.notes)


@pytest.mark.parametrize(
    ("rows", "field", "value", "reason"),
    [
        ("EV-1,sixty,NMC", "nominal_capacity_ah", "sixty", "it must be a number"),
        ("EV-1,-5,NMC", "nominal_capacity_ah", "-5", "it must be a number"),
        ("EV-1,nan,NMC", "nominal_capacity_ah", "nan", "it must be a number"),
        ("EV-1,60,PbA", "chemistry", "PbA", "it must be one of NMC, NCA, LFP"),
        ("E 1,60,NMC", "battery_id", "E 1", "it must be 1 to 50 characters"),
        (",60,NMC", "battery_id", "", "it must be 1 to 50 characters"),
        ("EV-1,60,NMC\nEV-1,70,NMC", "battery_id", "EV-1", "described twice"),
        ("EV-1,60", "", "", "2 cells, the header has 3"),
    ],
)
def test_invalid_battery_of_the_table_costs_no_other_battery(
    rows: str, field: str, value: str, reason: str, tmp_path: Path
) -> None:
    files.fleet(tmp_path)
    table = tmp_path / "what.csv"
    table.write_text(f"battery_id,nominal_capacity_ah,chemistry\n{rows}\nEV-2,77,LFP\n")
    telemetry, without = read("fleet", tmp_path, batteries=table), read("fleet", tmp_path)
    pd.testing.assert_frame_equal(telemetry.readings, without.readings)
    batteries, source = (one.batteries.set_index("battery_id") for one in (telemetry, without))
    assert batteries.loc["EV-2", ["nominal_capacity_ah", "chemistry"]].tolist() == [77.0, "LFP"]
    pd.testing.assert_series_equal(batteries.loc["EV-1"], source.loc["EV-1"])
    rejected = telemetry.rejected[telemetry.rejected["table"] == "batteries"]
    assert rejected["row"].tolist() == list(range(1, rows.count("\n") + 2))
    assert set(rejected["source_file"]) == {"what.csv"}
    assert set(rejected["field"]) == {field}
    assert set(rejected["value"]) == {value}
    assert all(reason in text for text in rejected["reason"])
    assert any(note.startswith("what.csv, row 1: ") and reason in note for note in telemetry.notes)
    result = validate(telemetry)
    assert len(result.quarantine) == len(rejected)
    assert summary(result, "fleet")["rows_quarantined"] == len(rejected)


def test_batteries_table_without_ids_is_an_error(tmp_path: Path) -> None:
    files.fleet(tmp_path)
    table = tmp_path / "what.csv"
    table.write_text("name,nominal_capacity_ah\nEV-1,60\n")
    with pytest.raises(TwinError, match="battery_id"):
        read("fleet", tmp_path, batteries=table)


def test_unknown_source_is_an_error() -> None:
    with pytest.raises(TwinError, match="known are fleet, matr"):
        read_source("tesla", "x")


def test_fleet_file_without_a_required_column_is_an_error(tmp_path: Path) -> None:
    readings = files.fleet(tmp_path)
    pd.read_parquet(readings).drop(columns="current").to_parquet(readings)
    with pytest.raises(TwinError, match="lacks the column current"):
        read("fleet", tmp_path)


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest, shared_data: Path) -> Telemetry:
    """Real data of the source that the test names; read once for the tests that follow each other."""
    return read_source(request.param, shared_data / request.param)


@pytest.mark.parametrize(
    ("real", "readings", "cycles", "rejected", "batteries"),
    [("matr", 0, 56458, 0, 89), ("nasa_pcoe", 100570, 2563, 231, 34), ("ev_faults", 64385, 0, 0, 2)],
    indirect=["real"],
)
def test_row_counts_of_the_real_data(
    real: Telemetry, readings: int, cycles: int, rejected: int, batteries: int
) -> None:
    assert_conserved(real)
    counts = (len(real.readings), len(real.cycles), len(real.rejected), len(real.batteries))
    assert counts == (readings, cycles, rejected, batteries)


@pytest.mark.parametrize(
    ("real", "kept", "quarantined"), [("nasa_pcoe", 103133, 231), ("ev_faults", 64350, 35)], indirect=["real"]
)
def test_real_data_is_valid(real: Telemetry, kept: int, quarantined: int) -> None:
    result = validate(real)
    assert (len(result.readings) + len(result.cycles), len(result.quarantine)) == (kept, quarantined)
    assert [v.sign for v in sign_verdicts(result.readings)] == [1, 1]
    reversed_ = result.readings.assign(current=-result.readings["current"])
    assert [v.sign for v in sign_verdicts(reversed_)] == [-1, -1]
