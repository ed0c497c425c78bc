"""Local record of the last served release, with which a service starts while the model registry is unavailable."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from telemetry.errors import TwinError
from telemetry.settings import Settings
from training.release import LoadedRelease, Release, cached_model, model_cache, twin_name


def save_last_release(loaded: LoadedRelease, settings: Settings) -> None:
    """Record `loaded` as the last served release, for `load_last_release`."""
    file = _record_file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, suffix=".part", delete=False) as part:
        part.write(json.dumps({"version": loaded.version, "release": loaded.release.to_json()}))
    Path(part.name).replace(file)


def load_last_release(settings: Settings) -> LoadedRelease | None:
    """The last served release; None if there is no record or a model of it is missing from the cache.

    Raises:
        TwinError: the record cannot be read.
    """
    file, cache = _record_file(settings), model_cache(settings)
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version, release = int(record["version"]), Release.from_json(record["release"])
    except (KeyError, TypeError, ValueError) as error:
        raise TwinError(f"{file} is damaged: remove it", field=str(file)) from error
    if not all((cache / pinned.content_sha256).is_dir() for pinned in release.models.values()):
        return None
    models = {target: cached_model(target, pinned, cache) for target, pinned in release.models.items()}
    return LoadedRelease(twin_name(settings.domain), version, release, models)


def _record_file(settings: Settings) -> Path:
    return model_cache(settings) / f"{twin_name(settings.domain)}.json"
