"""Tests of `make bench`: selection of parts, merging of their measurements, and the Markdown table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as bench
from benchmarks.report import markdown


def measurement(name: str, value: float = 1.0) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "ms", "peer": "other", "peer_value": 2.0, "ratio": value / 2.0}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: lambda name=name: [measurement(name), measurement(f"{name}_more")] for name in bench.PARTS}
    monkeypatch.setattr(bench, "PARTS", made)


def names(reports: Path) -> list[str]:
    return [one["name"] for one in json.loads((reports / "bench.json").read_text(encoding="utf-8"))]


@pytest.mark.usefixtures("parts")
def test_a_named_part_replaces_its_own_measurements_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [measurement("stream", 7.0), measurement("stream_of_old", 7.0), measurement("inference_one_row", 7.0)]
    (tmp_path / "bench.json").write_text(json.dumps(before), encoding="utf-8")
    assert bench.main(["stream"], tmp_path) == 0
    after = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert after == [before[2], measurement("stream"), measurement("stream_more")]
    shown = capsys.readouterr()
    assert shown.out == (tmp_path / "bench.md").read_text(encoding="utf-8") == markdown(after)
    assert "stream (1 of 1): 2 measurements" in shown.err


@pytest.mark.usefixtures("parts")
def test_all_parts_except_the_optional_ones_run_by_default(tmp_path: Path) -> None:
    assert bench.main([], tmp_path) == 0
    wanted = [name for name in bench.PARTS if name not in bench.OPTIONAL]
    assert names(tmp_path) == [f"{name}{end}" for name in wanted for end in ("", "_more")]


def test_measurements_of_earlier_parts_survive_a_failed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[dict[str, Any]]:
        raise RuntimeError("no broker")

    monkeypatch.setattr(bench, "PARTS", {"inference": lambda: [measurement("inference_one_row")], "stream": fail})
    with pytest.raises(RuntimeError, match="no broker"):
        bench.main([], tmp_path)
    assert names(tmp_path) == ["inference_one_row"]


def test_an_unknown_part_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["streams"], tmp_path)
    assert ended.value.code == 2
    assert "There is no part streams: name some of inference, http_predict" in capsys.readouterr().err


def test_the_table_shows_a_repeated_note_once() -> None:
    table = markdown([measurement("a", 12345.6) | {"note": "40 trees"}, measurement("b") | {"note": "40 trees"}])
    assert table.splitlines()[2] == "| `a` | 12,346 ms | other | 2 ms | 6,173x |"
    assert table.count("40 trees") == 1
