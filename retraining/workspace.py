"""A DVC workspace of its own for one training: nobody else's `params.yaml`, results or lock are touched.

`dvc exp run --temp` would do nearly the same, but only within a git repository, and it writes into that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retraining import kill_on_parent_exit
from telemetry.errors import TwinError
from telemetry.settings import NO_TELEMETRY
from training.params import MODELS, REPORTS

#: What the stages import and depend on.
_PACKAGES = ("telemetry", "features", "training", "pipelines", "simulator")
_FILES = ("dvc.yaml", ".dvcignore")
#: Without git, silent, and with nothing kept outside of the folder.
_DVC_CONFIG = """\
[core]
    no_scm = true
    analytics = false
    check_update = false
    site_cache_dir = {folder}/.dvc/site
"""
_REPRO = (sys.executable, "-m", "dvc", "repro", "evaluate")
_DVC_FAILED = "ERROR: failed to reproduce"
_POLL_S = 0.5
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Workspace:
    """A folder in which the pipeline runs."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, project: Path) -> Workspace:
        """A workspace in the new `folder` with the stages and the code of `project`."""
        folder.mkdir(parents=True)
        for package in _PACKAGES:
            shutil.copytree(project / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            if (project / name).exists():
                shutil.copy2(project / name, folder / name)
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text(_DVC_CONFIG.format(folder=folder), encoding="utf-8")
        return cls(folder)

    @property
    def models(self) -> Path:
        """Where the stages leave the models."""
        return self.folder / MODELS

    @property
    def reports(self) -> Path:
        """Where the stages leave what they measured."""
        return self.folder / REPORTS

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Write `params.yaml`."""
        text = yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def train(self, var: Path, check: Callable[[], None]) -> None:
        """Run the pipeline up to the evaluation; what it says is in `train.log`.

        Args:
            var: where this process keeps what it keeps; addresses come from the environment, as here.
            check: called about twice a second; what it raises ends the run.

        Raises:
            TwinError: a stage failed; the sentence is the stage's own where it had one.
        """
        # The stages' interpreter is this one, and what they keep is kept where this process keeps it.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        own = {"PATH": path, "PYTHONPATH": str(self.folder), "TWIN_VAR": str(var.resolve())}
        log = self.folder / "train.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, kill_on_parent_exit.__file__, *_REPRO],
                cwd=self.folder,
                env={**os.environ, **NO_TELEMETRY, **own},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    check()
                    time.sleep(_POLL_S)
            finally:
                _end(process)
                if process.stdin is not None:
                    process.stdin.close()
        if process.returncode != 0:
            raise TwinError(failure_message(log.read_text(encoding="utf-8", errors="replace")), field="dvc repro")

    def drop_cache(self) -> None:
        """Remove DVC's second copy of everything, once it is of no more use."""
        for name in ("cache", "site", "tmp"):
            shutil.rmtree(self.folder / ".dvc" / name, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End DVC with the stage that it runs, kindly, then by force; nothing where it has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)


def failure_message(log: str) -> str:
    """What a failed run says of itself, in one sentence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # The last line of a traceback names the error; that of DVC only the stage.
    named = [line for line in lines if line.split(":")[0].endswith("Error") and " " not in line.split(":")[0]]
    if named:
        return named[-1]
    # A stage's own sentence is the last that it says, before DVC's.
    said = list(itertools.takewhile(lambda line: not line.startswith(_DVC_FAILED), lines))
    return (said or lines or ["dvc repro failed without a word"])[-1]
