"""The loop in small: a hot summer comes over a fleet, the drift is flagged, a model that knows it is promoted.

Every part is the real one: simulator, service, evaluator, watcher of drift, retraining; `make loop` is the same for
longer, and draws it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.loop.figure import draw
from benchmarks.loop.scenario import LoopOptions, LoopResult, run_scenario
from telemetry.settings import Settings
from training.registry.registry_store import RegistryStore

ROOT = Path(__file__).resolve().parents[2]


def project_files() -> dict[str, str]:
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = ("params.yaml", "dvc.lock", "reports/metrics.json")
    return {"status": status.stdout, **{name: (ROOT / name).read_text(encoding="utf-8") for name in names}}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_hot_summer_is_learned_without_a_failed_request(server_folders: Path, tmp_path: Path) -> None:
    before = project_files()
    folder = server_folders / "loop"
    options = LoopOptions(before_h=4.0, after_h=6.0, timeout_s=1200.0)
    result = run_scenario(folder, ROOT, options, Console())
    logs = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in (folder / "log").glob("*.log"))
    draw(result, tmp_path / "loop.png")
    assert (tmp_path / "loop.png").stat().st_size > 10_000

    assert result.shifted is not None
    assert result.flagged is not None, logs
    assert result.promoted is not None, logs
    assert result.shifted < result.flagged <= result.promoted
    assert result.calls.failures == []
    assert {"battery-twin/1", "battery-twin/2"} <= set(result.calls.answered)

    quiet, shifted = result.mean_error(None, result.shifted), result.mean_error(result.flagged, result.promoted)
    after, shadow = result.mean_error(result.promoted, None), result.mean_error(result.promoted, None, "challenger")
    print({"before": quiet, "drifting": shifted, "after": after, "shadow after": shadow}, result.retrains)
    assert shifted > 1.5 * quiet, "the shift is one"
    assert after < 0.75 * shadow, "on the same moments, so that the weather is no excuse"
    assert after < 0.75 * shifted

    registry = RegistryStore.open(Settings(var=folder), "battery")
    kinds = [event.kind for event in registry.events()]
    assert kinds[:3] == ["register", "register", "shadow"]
    assert "drift" in registry.events()[1].reason
    assert project_files() == before


def test_a_result_is_drawn_as_far_as_it_came(tmp_path: Path) -> None:
    draw(LoopResult(), tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()
