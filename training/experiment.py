"""`make repro` and the first half of `make run`: the DVC pipeline on the default source, or on another.

Another source becomes a named experiment (`dvc exp run --name`) in a registry domain of its own: what
is committed stays committed, and `dvc exp show` compares the sources.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from features.table import LabelParams
from telemetry.command import exit_code
from telemetry.errors import TwinError
from telemetry.settings import NO_TELEMETRY
from telemetry.sources import source
from training.params import load_params
from training.release import validate_domain
from training.snapshot import take_snapshot

DEFAULT_SOURCE = "fleet"
RESTORE = "git restore params.yaml dvc.lock reports"
#: What is so after an experiment that failed.
FAILED_EXPERIMENT = (
    "The experiment failed, for the reason above. params.yaml, dvc.lock and reports are as it left them, to be looked "
    f"into, corrected and run again; `{RESTORE}` brings the committed ones back, which `make run` needs."
)


def source_overrides(
    name: str, data: str | None, domain: str | None, field_map: str | None = None, batteries: str | None = None
) -> list[str]:
    """The parameters (`key=value`) that point the pipeline at a source.

    A source that is a running system is copied into files first, unless `data` names an earlier copy.

    Raises:
        TwinError: for an unknown source, a path that does not exist or a domain that cannot name models.
    """
    entry = source(name)
    if data is None and entry.take is not None:
        data = str(take_snapshot(entry.name, field_map))
    if data is None:
        raise TwinError(f"source {name} needs its data: make repro SOURCE={name} DATA=path", field="DATA")
    for field, given in (("DATA", data), ("field_map", field_map), ("batteries", batteries)):
        looks_like_path = given is not None and (field != "field_map" or given.endswith((".yaml", ".yml")))
        if looks_like_path and not Path(str(given)).exists():
            raise TwinError(
                f"{field} {given} does not exist: give the path of a file or folder", field=field, value=given
            )
    changed = [
        f"source.name={name}",
        f"source.path={Path(data).resolve()}",
        f"domain={validate_domain(domain or name)}",
    ]
    # All of them each time: an experiment starts from what the last one left in params.yaml.
    mapped = Path(field_map).resolve() if field_map and Path(field_map).exists() else field_map
    changed.append(f"source.field_map={mapped or 'null'}")
    changed.append(f"source.batteries={Path(batteries).resolve() if batteries else 'null'}")
    definitions = {"eol_fraction": LabelParams.eol_fraction, **entry.target_defaults}
    return changed + [f"targets.{key}={value}" for key, value in definitions.items()]


def _dvc(*arguments: str) -> int:
    environment = {**os.environ, **NO_TELEMETRY}
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], env=environment, check=False).returncode


def commands(argv: Sequence[str] | None = None) -> list[str]:
    """What to tell DVC for the command line `argv`; raises TwinError where it asks for what cannot be run."""
    arguments = _parser().parse_args(argv)
    if arguments.default:
        present = load_params()["source"]["name"]
        if present != DEFAULT_SOURCE:
            raise TwinError(
                f"an experiment set params.yaml to the source {present}, and the live fleet needs {DEFAULT_SOURCE}: "
                f"`{RESTORE}` brings the default back (the experiment stays in `dvc exp show`)",
                field="source.name",
                value=present,
            )
        return ["repro"]
    if arguments.source in (None, DEFAULT_SOURCE):
        return ["repro"]
    changed = source_overrides(
        arguments.source, arguments.data, arguments.domain, arguments.field_map, arguments.batteries
    )
    name = arguments.name or arguments.domain or arguments.source
    changes = [part for change in changed for part in ("-S", change)]
    # `register` and what it needs: the simulated fleet is no part of another source.
    return ["exp", "run", "--force", "--name", name.replace("_", "-"), *changes, "register"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--default", action="store_true", help="what `make run` needs")
    parser.add_argument("--source", help="an entry of telemetry/sources")
    parser.add_argument("--data", help="file or folder of the source")
    parser.add_argument("--domain", help="prefix of the registered models; the source's name where absent")
    parser.add_argument("--name", help="of the experiment; the domain where absent")
    parser.add_argument("--field-map", help="YAML, or the name of a map that ships")
    parser.add_argument("--batteries", help="CSV of what each battery is made of")
    return parser


def main() -> int:
    """Run the pipeline; DVC's exit code, and a sentence on what a failed experiment leaves behind."""
    command = commands()
    code = _dvc(*command)
    if code and command[0] == "exp":
        print(FAILED_EXPERIMENT, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(exit_code(main))
