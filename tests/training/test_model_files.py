"""skops model files: no pickle, only trusted types, identical bytes for identical models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import skops.io
from sklearn.pipeline import Pipeline
from skops.io.exceptions import UntrustedTypesFoundException

from tests.training.small_models import features_with_missing_values, small_classifier, small_regressor
from training.model_files import load_skops, save_canonical_skops

ROOT = Path(__file__).resolve().parents[2]

WRITE_IN_ANOTHER_PROCESS = """
import sys, numpy as np
from pathlib import Path
from tests.training.test_model_files import fitted
from training.model_files import save_canonical_skops
from training.onnx_export import to_onnx
folder = Path(sys.argv[1])
folder.mkdir()
junk = [bytearray(number) for number in range(int(sys.argv[2]))]
for kind in ("regressor", "classifier"):
    save_canonical_skops(fitted(kind), folder / f"{kind}.skops")
    (folder / f"{kind}.onnx").write_bytes(to_onnx(fitted(kind), 5))
"""


def fitted(kind: str) -> Pipeline:
    features = features_with_missing_values(np.random.default_rng(0), 400, 5)
    actual = np.isnan(features[:, 0]).astype(int)
    return small_regressor(features, actual) if kind == "regressor" else small_classifier(features, actual)


def test_two_processes_write_identical_files(tmp_path: Path) -> None:
    """Holds for skops and ONNX files, with another order of sets and another memory layout."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_IN_ANOTHER_PROCESS, str(tmp_path / name), junk],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for name, seed, junk in (("one", "1", "10"), ("two", "2", "5000"))
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_plain_skops_files_differ() -> None:
    """Negative control: without renumbering, equal models give different files."""
    assert skops.io.dumps(fitted("regressor")) != skops.io.dumps(fitted("regressor"))


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_loaded_model_predicts_like_the_saved_one(tmp_path: Path, kind: str) -> None:
    model, path = fitted(kind), tmp_path / "model.skops"
    save_canonical_skops(model, path)
    loaded = load_skops(path)
    rows = features_with_missing_values(np.random.default_rng(1), 200, 5)
    method = "predict_proba" if kind == "classifier" else "predict"
    np.testing.assert_array_equal(getattr(loaded, method)(rows), getattr(model, method)(rows))


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_saving_a_loaded_model_gives_the_same_file(tmp_path: Path, kind: str) -> None:
    first, second = tmp_path / "first.skops", tmp_path / "second.skops"
    save_canonical_skops(fitted(kind), first)
    save_canonical_skops(load_skops(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_different_models_give_different_files(tmp_path: Path) -> None:
    save_canonical_skops(fitted("regressor"), tmp_path / "a.skops")
    save_canonical_skops(fitted("regressor").set_params(randomforestregressor__verbose=1), tmp_path / "b.skops")
    assert (tmp_path / "a.skops").read_bytes() != (tmp_path / "b.skops").read_bytes()


def test_untrusted_type_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump({"model": _UntrustedType()}, path)
    with pytest.raises(UntrustedTypesFoundException, match="_UntrustedType"):
        load_skops(path)


def test_file_contains_no_pickle(tmp_path: Path) -> None:
    save_canonical_skops(fitted("classifier"), tmp_path / "model.skops")
    with ZipFile(tmp_path / "model.skops") as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".npy", ".json"}


class _UntrustedType:
    pass
