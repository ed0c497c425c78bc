"""Run the DVC pipeline on the default source (`make repro`, `make run`), or with other parameters as a DVC experiment.

Another source becomes a named experiment (`dvc exp run --name`) with its own model namespace: the committed
results are unchanged, and `dvc exp show` compares the sources.  The parameters are written to params.yaml here and not
by `dvc exp run -S`, whose grammar (Hydra's) gives meaning to spaces, commas, brackets and quotes in paths.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from pathlib import Path
from typing import Any

import yaml
from dvc.utils.serialize import modify_yaml

from telemetry.command import exit_code
from telemetry.errors import TwinError
from telemetry.parameters import PARAMS_FILE, load_params
from telemetry.settings import USAGE_STATISTICS_OFF
from telemetry.sources import source
from training.release import validate_domain
from training.snapshot import take_snapshot

DEFAULT_SOURCE = "fleet"
#: Model namespace of the default source.
DEFAULT_DOMAIN = "battery"
RESTORE = "git restore params.yaml dvc.lock reports"
FAILED_EXPERIMENT = (
    "The experiment failed for the reason above. params.yaml, dvc.lock and reports are left as they were then, so that "
    f"it can be corrected and run again; `{RESTORE}` restores the committed ones, which `make run` needs."
)
FINISHED_EXPERIMENT = (
    f"params.yaml, dvc.lock and reports are those of the experiment now; `{RESTORE}` restores the committed ones."
)


def source_params(
    name: str,
    data: str | None,
    domain: str | None,
    field_map: str | None = None,
    batteries: str | None = None,
    *,
    present: Mapping[str, Any],
) -> dict[str, Any]:
    """Parameters, by dotted name, that select a source for the pipeline.

    A database source is copied into files first, unless `data` is the folder of an earlier snapshot.  The model
    namespace, field map and batteries table of `present` are kept where they can only be for these data: if its source
    is the same, or the default source, which an experiment does not set.  All other parameters stay as they are.

    Args:
        present: content of params.yaml, which an earlier experiment may have changed.

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
    path = str(Path(data).resolve())
    of_present: Mapping[str, Any] = present.get("source") or {}
    keeps = of_present.get("name") == DEFAULT_SOURCE or (of_present.get("name"), of_present.get("path")) == (name, path)
    kept: Mapping[str, Any] = {**of_present, "domain": present.get("domain")} if keeps else {}
    if kept.get("domain") == DEFAULT_DOMAIN:
        kept = {**kept, "domain": None}
    mapped = str(Path(field_map).resolve()) if field_map and Path(field_map).exists() else field_map
    return {
        "source.name": name,
        "source.path": path,
        "source.field_map": mapped or kept.get("field_map"),
        "source.batteries": str(Path(batteries).resolve()) if batteries else kept.get("batteries"),
        "domain": validate_domain(domain or kept.get("domain") or name),
    }


def given_params(text: str, present: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in `text`, for example `targets.eol_fraction=0.7 tune.trials=3`, by dotted name.

    Values are YAML: numbers, texts, `null`, `[1, 2]`; one with spaces is quoted as in a shell.

    Args:
        present: content of params.yaml.

    Raises:
        TwinError: for a text of another form, a name that is not in params.yaml or a value that is no YAML.
    """
    form = 'give NAME=VALUE, as in SET="targets.eol_fraction=0.7 tune.trials=3"'
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise TwinError(f"SET {text} cannot be read ({error}): {form}", field="SET", value=text) from error
    params = {}
    for part in parts:
        name, separator, value = part.partition("=")
        if not separator:
            raise TwinError(f"SET {part} has no `=`: {form}", field="SET", value=part)
        _require_parameter(name, present)
        try:
            params[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise TwinError(f"SET {part}: the value is not YAML", field=name, value=value) from error
    return params


def _require_parameter(name: str, present: Mapping[str, Any]) -> None:
    """Raise unless `name` is a parameter of params.yaml, as opposed to a section."""
    section: Any = present
    for key in name.split("."):
        if not isinstance(section, Mapping) or key not in section:
            known = ", ".join(section) if isinstance(section, Mapping) else "none below it"
            raise TwinError(f"SET {name} is not a parameter of params.yaml; valid here are {known}", field=name)
        section = section[key]
    if isinstance(section, Mapping):
        raise TwinError(f"SET {name} is a section of params.yaml; set one of {', '.join(section)}", field=name)


def set_params(params: Mapping[str, Any], path: Path = PARAMS_FILE) -> list[str]:
    """Write `params`, by dotted name, into the params.yaml `path`; other lines stay, with their comments.

    Returns:
        What changed, one text each.
    """
    changed: list[str] = []
    if not params:
        return changed
    with modify_yaml(path) as content:
        for name, value in params.items():
            section = content
            *sections, last = name.split(".")
            for key in sections:
                section = section[key]
            if section[last] != value:
                changed.append(f"{name}: {_text(section[last])} -> {_text(value)}")
                section[last] = value
    return changed


def _text(value: object) -> str:
    return "(empty)" if value is None else str(value)


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


@dataclass(frozen=True)
class Run:
    """A run of the pipeline.

    Attributes:
        arguments: of `dvc`.
        params: parameters that are set before, by dotted name.
    """

    arguments: tuple[str, ...]
    params: Mapping[str, Any] = attribute(default_factory=dict)

    @property
    def is_experiment(self) -> bool:
        """Whether it is a DVC experiment, which moves no champion."""
        return self.arguments[0] == "exp"


def planned_run(argv: Sequence[str] | None = None) -> Run:
    """The run for the command line `argv`; raises TwinError if it cannot be run."""
    arguments = _parser().parse_args(argv)
    present = load_params()
    if arguments.default or arguments.source == DEFAULT_SOURCE:
        _require_default_source(present)
    if arguments.default:
        return Run(("repro",))
    params: dict[str, Any] = {}
    if arguments.source not in (None, DEFAULT_SOURCE):
        params = source_params(
            arguments.source,
            arguments.data,
            arguments.domain,
            arguments.field_map,
            arguments.batteries,
            present=present,
        )
    params |= given_params(arguments.set, present)
    if not params:
        return Run(("repro",))
    if "domain" in params:
        validate_domain(str(params["domain"]))
    name = arguments.name or arguments.domain or (None if "source.name" not in params else params["domain"])
    named = () if name is None else ("--name", name.replace("_", "-"))
    # `register` and its dependencies only: another source needs no simulated fleet.
    return Run(("exp", "run", "--force", *named, "register"), params)


def _require_default_source(present: Mapping[str, Any]) -> None:
    name = present["source"]["name"]
    if name != DEFAULT_SOURCE:
        raise TwinError(
            f"an experiment set params.yaml to the source {name}, this run needs {DEFAULT_SOURCE}: "
            f"`{RESTORE}` restores the default (the experiment stays in `dvc exp show`)",
            field="source.name",
            value=name,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--default", action="store_true", help="the default source, as `make run` needs")
    parser.add_argument("--source", help="an entry of telemetry/sources")
    parser.add_argument("--data", help="file or folder of the source")
    parser.add_argument("--domain", help="model namespace, prefix of the registered models (default: the source)")
    parser.add_argument("--name", help="name of the experiment (default: the domain)")
    parser.add_argument("--field-map", help="YAML file, or the name of a field map that ships")
    parser.add_argument("--batteries", help="CSV with the properties of each battery")
    parser.add_argument("--set", default="", help="other parameters of params.yaml, as NAME=VALUE NAME=VALUE ...")
    return parser


def main() -> int:
    """Run the pipeline and return DVC's exit code; explains how to restore the files after an experiment."""
    run = planned_run()
    for change in set_params(run.params):
        print(f"params.yaml: {change}", flush=True)
    code = _dvc(*run.arguments)
    if run.is_experiment:
        print(FAILED_EXPERIMENT if code else FINISHED_EXPERIMENT, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(exit_code(main))
