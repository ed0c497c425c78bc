"""Tests of the validation report: parts replace their own results, and a bound that is exceeded is an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from validation.__main__ import PARTS, main
from validation.report import Result, exceeded


def result(name: str, value: float, bound: float | None = 1.0) -> Result:
    return {"name": name, "value": value, "unit": "V", "bound": bound, "reference": "none"}


def part(*results: Result) -> Callable[[Path], Sequence[Result]]:
    return lambda _: results


def test_a_part_replaces_its_own_results(tmp_path: Path) -> None:
    first = {"cell": part(result("cell_a", 0.1), result("cell_b", 0.2)), "ageing": part(result("ageing_a", 0.3))}
    assert main([], tmp_path, first) == 0
    assert main(["cell"], tmp_path, first | {"cell": part(result("cell_c", 0.4))}) == 0
    stored = json.loads((tmp_path / "physics.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in stored] == ["cell_c", "ageing_a"]
    assert all(set(one) == {"name", "value", "unit", "bound", "reference"} for one in stored)


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (1.001, 1), (float("nan"), 1)])
def test_a_value_beyond_its_bound_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, code: int
) -> None:
    assert main([], tmp_path, {"cell": part(result("cell_a", value))}) == code
    assert ("EXCEEDED" in capsys.readouterr().out) == bool(code)
    assert not exceeded([result("cell_a", value, None)])


def test_results_are_named_after_their_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rename ageing_a"):
        main([], tmp_path, {"cell": part(result("ageing_a", 0.1))})


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["motor"], tmp_path, PARTS)
    assert "There is no part motor" in capsys.readouterr().err


def test_calibration_is_left_out_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = [result("calibration_B0005_voltage_rmse_mv", 0.1)]
    (tmp_path / "physics.json").write_text(json.dumps(stored), encoding="utf-8")
    assert main([], tmp_path, {"cell": part(result("cell_a", 0.1))}) == 0
    assert "calibration is left out" in capsys.readouterr().err
    kept = json.loads((tmp_path / "physics.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in kept] == ["cell_a", "calibration_B0005_voltage_rmse_mv"]
    with pytest.raises(SystemExit):
        main(["calibration"], tmp_path, {})
