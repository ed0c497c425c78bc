"""params.yaml is in the form that DVC writes, so that `dvc exp run -S` changes one line for each parameter."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from dvc.utils.hydra import apply_overrides

ROOT = Path(__file__).resolve().parents[2]


def changed_lines(text: str, tmp_path: Path, *overrides: str) -> list[str]:
    """Lines that DVC removes from a params.yaml with `text` or adds to it."""
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    apply_overrides(path, list(overrides))
    diff = difflib.unified_diff(text.splitlines(), path.read_text(encoding="utf-8").splitlines(), lineterm="", n=0)
    return [line for line in diff if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def test_an_experiment_changes_one_line_for_each_parameter(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert changed_lines(text, tmp_path, "tune.trials=3") == ["-  trials: 6", "+  trials: 3"]
    assert len(changed_lines(text, tmp_path, "source.name=matr", "seed=8")) == 4


def test_another_form_would_be_rewritten(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("  trials: 6", "  trials: 6\n  depths: [1, null]")
    assert len(changed_lines(text, tmp_path, "tune.trials=3")) > 2
