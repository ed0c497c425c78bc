"""What was served last, noted on this machine: a service starts with it while the registry is away."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.release import LoadedRelease, Release, cached_model, model_cache, twin_name


def save_last_release(loaded: LoadedRelease, settings: Settings) -> None:
    """Note that `loaded` was served from here, for `load_last_release`."""
    file = _memory(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, suffix=".part", delete=False) as part:
        part.write(json.dumps({"version": loaded.version, "release": loaded.release.to_json()}))
    Path(part.name).replace(file)


def load_last_release(settings: Settings) -> LoadedRelease | None:
    """The release that was last served from here, for a start without the registry; None where it is not here whole.

    Raises:
        TwinError: what was noted cannot be read.
    """
    file, cache = _memory(settings), model_cache(settings)
    if not file.exists():
        return None
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        version, release = int(noted["version"]), Release.from_json(noted["release"])
    except (KeyError, TypeError, ValueError) as error:
        raise TwinError(f"{file} is damaged: remove it", field=str(file)) from error
    if not all((cache / pinned.content_sha256).is_dir() for pinned in release.models.values()):
        return None
    models = {target: cached_model(target, pinned, cache) for target, pinned in release.models.items()}
    return LoadedRelease(twin_name(settings.domain), version, release, models)


def _memory(settings: Settings) -> Path:
    return model_cache(settings) / f"{twin_name(settings.domain)}.json"
