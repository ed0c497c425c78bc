"""Run the DVC pipeline on the default source (`make repro`, `make run`) or on another source as a DVC experiment.

Another source becomes a named experiment (`dvc exp run --name`) with its own model namespace: the committed
results are unchanged, and `dvc exp show` compares the sources.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from features.labels import LabelParams
from telemetry.command import exit_code
from telemetry.errors import TwinError
from telemetry.parameters import load_params
from telemetry.settings import USAGE_STATISTICS_OFF
from telemetry.sources import source
from training.release import validate_domain
from training.snapshot import take_snapshot

DEFAULT_SOURCE = "fleet"
RESTORE = "git restore params.yaml dvc.lock reports"
FAILED_EXPERIMENT = (
    "The experiment failed for the reason above. params.yaml, dvc.lock and reports are left as they were then, so that "
    f"it can be corrected and run again; `{RESTORE}` restores the committed ones, which `make run` needs."
)


def source_overrides(
    name: str, data: str | None, domain: str | None, field_map: str | None = None, batteries: str | None = None
) -> list[str]:
    """Parameter overrides (`key=value`) that select a source for the pipeline.

    A database source is copied into files first, unless `data` is the folder of an earlier snapshot.

    Raises:
        TwinError: for an unknown source, a path that does not exist or an invalid model namespace.
    """
    entry = source(name)
    if data is None and entry.take_snapshot is not None:
        data = str(take_snapshot(entry.name, field_map))
    if data is None:
        raise TwinError(f"source {name} needs its data: make repro SOURCE={name} DATA=path", field="DATA")
    for field, given in (("DATA", data), ("field_map", field_map), ("batteries", batteries)):
        looks_like_path = given is not None and (field != "field_map" or given.endswith((".yaml", ".yml")))
        if looks_like_path and not Path(str(given)).exists():
            raise TwinError(
                f"{field} {given} does not exist: give the path of a file or folder", field=field, value=given
            )
    overrides = [
        f"source.name={name}",
        f"source.path={Path(data).resolve()}",
        f"domain={validate_domain(domain or name)}",
    ]
    # Set every time: an experiment starts from the params.yaml that the last one left.
    mapped = Path(field_map).resolve() if field_map and Path(field_map).exists() else field_map
    overrides.append(f"source.field_map={mapped or 'null'}")
    overrides.append(f"source.batteries={Path(batteries).resolve() if batteries else 'null'}")
    definitions = {"eol_fraction": LabelParams().eol_fraction, **entry.target_defaults}
    return overrides + [f"targets.{key}={value}" for key, value in definitions.items()]


#: Hints of DVC that do not apply here: results are not staged, and there may be no remote storage.
_HINT = re.compile(
    r"Use `dvc push`|To track the changes with git|To enable auto staging|\t(git add|dvc config core\.autostage) "
)


def _dvc(*arguments: str) -> int:
    """Run dvc, print its output without its hints and repeated empty lines, and return its exit code."""
    environment = {**os.environ, **USAGE_STATISTICS_OFF, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in without_hints(process.stdout or ()):
            print(line, end="", flush=True)
    return process.returncode


def without_hints(lines: Iterable[str]) -> Iterator[str]:
    """The lines of dvc's output without its hints; of several empty lines in a row, one."""
    was_empty = False
    for line in lines:
        if not _HINT.match(line) and not (was_empty and not line.strip()):
            was_empty = not line.strip()
            yield line


def dvc_arguments(argv: Sequence[str] | None = None) -> list[str]:
    """Arguments of `dvc` for the command line `argv`; raises TwinError if they cannot be run."""
    arguments = _parser().parse_args(argv)
    if arguments.default:
        present = load_params()["source"]["name"]
        if present != DEFAULT_SOURCE:
            raise TwinError(
                f"an experiment set params.yaml to the source {present}, the live fleet needs {DEFAULT_SOURCE}: "
                f"`{RESTORE}` restores the default (the experiment stays in `dvc exp show`)",
                field="source.name",
                value=present,
            )
        return ["repro"]
    if arguments.source in (None, DEFAULT_SOURCE):
        return ["repro"]
    overrides = source_overrides(
        arguments.source, arguments.data, arguments.domain, arguments.field_map, arguments.batteries
    )
    name = arguments.name or arguments.domain or arguments.source
    changes = [part for change in overrides for part in ("-S", change)]
    # `register` and its dependencies only: another source needs no simulated fleet.
    return ["exp", "run", "--force", "--name", name.replace("_", "-"), *changes, "register"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--default", action="store_true", help="the default source, as `make run` needs")
    parser.add_argument("--source", help="an entry of telemetry/sources")
    parser.add_argument("--data", help="file or folder of the source")
    parser.add_argument("--domain", help="model namespace, prefix of the registered models (default: the source)")
    parser.add_argument("--name", help="name of the experiment (default: the domain)")
    parser.add_argument("--field-map", help="YAML file, or the name of a field map that ships")
    parser.add_argument("--batteries", help="CSV with the properties of each battery")
    return parser


def main() -> int:
    """Run the pipeline and return DVC's exit code; explains how to restore the files after a failed experiment."""
    command = dvc_arguments()
    code = _dvc(*command)
    if code and command[0] == "exp":
        print(FAILED_EXPERIMENT, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(exit_code(main))
