"""Local times in the hour that the autumn clock repeats: resolved where the order shows the pass, else rejected."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg2
import pytest
import yaml
from psycopg2.extras import execute_values

from telemetry.field_map import parse_field_map
from telemetry.sources import read_source
from telemetry.sources.base import Telemetry
from telemetry.sources.local_time import to_utc
from telemetry.stores.migrate import migrate
from telemetry.stores.snapshot import SnapshotParams, take_snapshot

ZONE = "Europe/Berlin"
#: Three hours around 2025-10-26 03:00 CEST = 02:00 CET, of which two are 02:00 to 03:00: 181 readings, 120 in it.
NIGHT = pd.date_range("2025-10-25T23:30Z", "2025-10-26T02:30Z", freq="1min")


def local(times: pd.DatetimeIndex, zone: str = ZONE) -> pd.Series:
    return pd.Series(times.tz_convert(zone).tz_localize(None))


def resolved(naive: pd.Series, zone: str = ZONE, *, order: pd.Series | None = None) -> pd.Series:
    return to_utc(naive, zone, pd.Series("B", index=naive.index), order).utc


def utc(times: pd.DatetimeIndex) -> pd.Series:
    return pd.Series(times.as_unit("us"))


@pytest.mark.parametrize(
    ("zone", "freq"),
    [
        *((zone, freq) for zone in (ZONE, "America/New_York") for freq in ("1s", "1min", "13min", "30min", "1h")),
        *(("Australia/Lord_Howe", freq) for freq in ("1s", "1min", "13min", "30min")),  # put back by half an hour
    ],
)
def test_both_passes_are_told_apart_by_the_order(zone: str, freq: str) -> None:
    start = {"Europe/Berlin": "2025-10-25T22:00Z", "America/New_York": "2025-11-02T04:00Z"}.get(
        zone, "2025-04-05T13:00Z"
    )
    times = pd.date_range(start, periods=int(pd.Timedelta("5h") / pd.Timedelta(freq)), freq=freq)
    pd.testing.assert_series_equal(resolved(local(times, zone), zone), utc(times))
    newest_first = local(times, zone).iloc[::-1].reset_index(drop=True)
    pd.testing.assert_series_equal(resolved(newest_first, zone), utc(times[::-1]))


def test_order_of_recording_is_used_where_it_is_known() -> None:
    sorted_by_local_time = local(NIGHT).sort_values(kind="stable")
    recorded = pd.Series(sorted_by_local_time.index, index=range(len(NIGHT)))
    naive = sorted_by_local_time.reset_index(drop=True)
    assert resolved(naive).isna().sum() == 120
    assert resolved(naive, order=recorded).tolist() == utc(NIGHT)[recorded].tolist()


@pytest.mark.parametrize(
    "naive",
    [
        pd.Series(pd.date_range("2025-10-26T01:00", "2025-10-26T03:30", freq="1min")),  # an hour is missing, or which?
        pd.Series(pd.date_range("2025-10-26T02:10", "2025-10-26T02:40", freq="1min")),
        pd.Series(pd.to_datetime(["2025-10-26T01:59", "2025-10-26T02:10", "2025-10-26T02:10", "2025-10-26T02:11"])),
        local(NIGHT).sample(frac=1.0, random_state=1).reset_index(drop=True),
        pd.concat([local(NIGHT), local(NIGHT)], ignore_index=True),
    ],
    ids=["one pass", "only one pass", "a row twice", "shuffled", "the file twice"],
)
def test_what_the_order_does_not_show_stays_unknown(naive: pd.Series) -> None:
    """Negative control: nothing is guessed, and the other hours are unaffected."""
    known = resolved(naive)
    inside = (naive >= "2025-10-26T02:00") & (naive < "2025-10-26T03:00")
    assert known[inside].isna().all()
    assert known[~inside].notna().all()


def test_of_rows_that_were_read_before_the_second_pass_the_first_is_known() -> None:
    naive = pd.Series(pd.to_datetime(["2025-10-26T02:10", "2025-10-26T02:40"]))
    read_at = datetime(2025, 10, 26, 0, 41, tzinfo=UTC)
    live = to_utc(naive, ZONE, pd.Series("B", index=naive.index), not_after=read_at)
    assert live.utc.tolist() == pd.to_datetime(["2025-10-26T00:10Z", "2025-10-26T00:40Z"]).tolist()


def write(path: Path, frames: dict[str, pd.Series]) -> None:
    rows = pd.concat([pd.DataFrame({"id": name, "t": times}) for name, times in frames.items()])
    rows.assign(v=360, i=1, c=20).to_csv(path, index=False, date_format="%Y-%m-%d %H:%M:%S")


FIELD_MAP = f"""
columns:
  t: {{to: time, format: "%Y-%m-%d %H:%M:%S", zone: {ZONE}}}
  id: battery_id
  v: voltage
  i: current
  c: temperature
"""


def read(tmp_path: Path, frames: dict[str, pd.Series]) -> Telemetry:
    (tmp_path / "map.yaml").write_text(FIELD_MAP)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "night.csv", frames)
    return read_source("csv", tmp_path / "data", field_map=tmp_path / "map.yaml")


def test_file_with_both_passes_keeps_all_rows_and_says_so(tmp_path: Path) -> None:
    telemetry = read(tmp_path, {"A": local(NIGHT), "B": local(NIGHT)})
    assert telemetry.rejected.empty
    for _, rows in telemetry.readings.groupby("battery_id"):
        assert rows["time"].tolist() == utc(NIGHT).tolist()
    assert any(
        "240 times of t are in the hour that the clock of Europe/Berlin repeats" in one for one in telemetry.notes
    )


def test_one_battery_in_disorder_costs_the_others_nothing(tmp_path: Path) -> None:
    telemetry = read(tmp_path, {"A": local(NIGHT), "B": local(NIGHT).sort_values()})
    assert telemetry.readings["battery_id"].value_counts().to_dict() == {"A": 181, "B": 61}
    assert len(telemetry.rejected) == 120
    assert "the order of the rows does not show which" in telemetry.rejected["reason"].iloc[0]
    assert any("for all but 120" in one for one in telemetry.notes)


def test_time_that_the_clock_skips_is_rejected_with_that_reason(tmp_path: Path) -> None:
    telemetry = read(tmp_path, {"A": pd.Series(pd.to_datetime(["2026-03-29T01:59", "2026-03-29T02:30"]))})
    assert telemetry.rejected["reason"].tolist() == ["time: not a time in Europe/Berlin, whose clock skips it"]


@pytest.mark.parametrize("relation", ["night", "night_view"])
def test_table_of_a_site_is_copied_in_the_order_of_insertion(postgres_dsn: str, tmp_path: Path, relation: str) -> None:
    """A view has no such order: its rows in that hour are rejected."""
    migrate(postgres_dsn)
    connection = psycopg2.connect(postgres_dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE night (id text, t timestamp, v float8, i float8, c float8)")
        cursor.execute("CREATE INDEX ON night (id, t)")
        execute_values(
            cursor, "INSERT INTO night VALUES %s", [(name, at, 360, 1, 20) for at in local(NIGHT) for name in "AB"]
        )
        cursor.execute("CREATE VIEW night_view AS SELECT * FROM night")
    connection.close()
    text = FIELD_MAP.replace(', format: "%Y-%m-%d %H:%M:%S"', "") + f"relation: {relation}\n"
    (tmp_path / "map.yaml").write_text(text)
    field_map = parse_field_map(yaml.safe_load(text), "map.yaml")
    folder = take_snapshot(postgres_dsn, tmp_path / "copy", SnapshotParams(), field_map=field_map)
    telemetry = read_source("timescale", folder, field_map=tmp_path / "map.yaml")
    expected = utc(NIGHT) if relation == "night" else utc(NIGHT)[(local(NIGHT).dt.hour != 2).to_numpy()]
    assert len(telemetry.rejected) == 2 * (len(NIGHT) - len(expected))
    for _, rows in telemetry.readings.groupby("battery_id"):
        assert rows["time"].tolist() == expected.tolist()
    assert np.isfinite(telemetry.readings["voltage"]).all()
