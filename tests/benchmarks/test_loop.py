"""Test of the retraining loop in small: hot summer, drift flagged, retrained model promoted.

All parts are real: simulator, service, evaluator, drift detection, retraining.  `make loop` runs longer and plots it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.loop.demonstration import LoopOptions, LoopResult, run_demonstration
from benchmarks.loop.plot import plot_result
from telemetry.settings import Settings
from training.registry.registry_store import RegistryStore

ROOT = Path(__file__).resolve().parents[2]


def project_files() -> dict[str, str]:
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = ("params.yaml", "dvc.lock", "reports/metrics.json")
    return {"status": status.stdout, **{name: (ROOT / name).read_text(encoding="utf-8") for name in names}}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_retrained_model_is_promoted_after_a_hot_summer(server_folders: Path, tmp_path: Path) -> None:
    before = project_files()
    folder = server_folders / "loop"
    options = LoopOptions(before_h=4.0, after_h=6.0, timeout_s=1200.0)
    result = run_demonstration(folder, ROOT, options, Console())
    logs = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in (folder / "log").glob("*.log"))
    plot_result(result, tmp_path / "loop.png")
    assert (tmp_path / "loop.png").stat().st_size > 10_000

    assert result.shifted is not None
    assert result.flagged is not None, logs
    assert result.promoted is not None, logs
    assert result.shifted < result.flagged <= result.promoted
    assert result.requests.failures == []

    before_shift, shifted = result.mean_error(None, result.shifted), result.mean_error(result.flagged, result.promoted)
    after, shadow = result.mean_error(result.promoted, None), result.mean_error(result.promoted, None, "challenger")
    print({"before": before_shift, "drifting": shifted, "after": after, "shadow after": shadow}, result.retrains)
    assert shifted > 1.5 * before_shift, "the scenario increases the error"
    assert after < 0.75 * shadow, "compared at the same times, so that weather has no effect"
    assert after < 0.75 * shifted

    registry = RegistryStore.open(Settings(var=folder), "battery")
    events = registry.events()
    # Retrained models that do not pass the gate are registered before.
    promotion = next(n for n, event in enumerate(events) if event.after.champions.get("temperature", 1) != 1)
    assert [event.kind for event in events[promotion : promotion + 2]] == ["register", "shadow"]
    assert "drift" in events[promotion].reason
    releases = [f"battery-twin/{event.after.release}" for event in events[promotion - 1 : promotion + 1]]
    assert releases[0] != releases[1]
    assert set(releases) <= set(result.requests.responses)
    assert project_files() == before


def test_a_result_without_readings_is_not_plotted(tmp_path: Path) -> None:
    plot_result(LoopResult(), tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()
