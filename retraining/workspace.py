"""Isolated DVC workspace of one training: a folder with its own code, `params.yaml`, results and lock file.

`dvc exp run --temp` is similar, but needs a git repository and writes into it.
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
from telemetry.settings import USAGE_STATISTICS_OFF
from training.params import MODELS, REPORTS

#: Packages that the pipeline stages import and depend on.
_PACKAGES = ("telemetry", "physics", "features", "training", "pipelines", "simulator")
_FILES = ("dvc.yaml", ".dvcignore")
#: Without git, analytics and update checks, and with the site cache inside the folder.
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
        """Create `folder` with the pipeline and the code of `project`."""
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
        """Folder of the trained models."""
        return self.folder / MODELS

    @property
    def reports(self) -> Path:
        """Folder of the reports."""
        return self.folder / REPORTS

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Write `params.yaml`."""
        text = yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def train(self, var: Path, check: Callable[[], None]) -> None:
        """Run the pipeline up to the stage `evaluate`; its output is in `train.log`.

        Args:
            var: `TWIN_VAR` of the stages; other settings come from the environment.
            check: called about twice a second; an exception that it raises ends the run.

        Raises:
            TwinError: a stage failed; the sentence is the stage's error message if it had one.
        """
        # The stages use this interpreter and this process's state folder.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        overrides = {"PATH": path, "PYTHONPATH": str(self.folder), "TWIN_VAR": str(var.resolve())}
        log = self.folder / "train.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, kill_on_parent_exit.__file__, *_REPRO],
                cwd=self.folder,
                env={**os.environ, **USAGE_STATISTICS_OFF, **overrides},
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
                _terminate(process)
                if process.stdin is not None:
                    process.stdin.close()
        if process.returncode != 0:
            raise TwinError(failure_message(log.read_text(encoding="utf-8", errors="replace")), field="dvc repro")

    def drop_cache(self) -> None:
        """Remove DVC's cache, a second copy of all outputs."""
        for name in ("cache", "site", "tmp"):
            shutil.rmtree(self.folder / ".dvc" / name, ignore_errors=True)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Stop DVC and its running stage by SIGTERM, then SIGKILL; no effect after its end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)


def failure_message(log: str) -> str:
    """The error message in the log of a failed run, one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # The last line of a traceback names the error, that of DVC only the stage.
    exceptions = [line for line in lines if line.split(":")[0].endswith("Error") and " " not in line.split(":")[0]]
    if exceptions:
        return exceptions[-1]
    # Without a traceback, the stage's message is the last line before DVC's.
    stage_output = list(itertools.takewhile(lambda line: not line.startswith(_DVC_FAILED), lines))
    return (stage_output or lines or ["dvc repro failed without output"])[-1]
