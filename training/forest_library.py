"""Forest classes of the chosen library: scikit-learn, or Intel's extension, faster on x86 but not bit-reproducible."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Literal

from sklearn import ensemble

from telemetry.errors import TwinError

Library = Literal["scikit-learn", "scikit-learn-intelex"]


@dataclass(frozen=True)
class ForestClasses:
    """The forest classes of one library.

    Attributes:
        tag: name and version of the library, recorded with the tuning run.
    """

    regressor: Any
    classifier: Any
    tag: str


def forests(library: Library) -> ForestClasses:
    """The forest classes of `library`.

    Raises:
        TwinError: the library is unknown or not installed.
    """
    module: Any = ensemble
    if library == "scikit-learn-intelex":
        try:
            module = import_module("sklearnex.ensemble")
        except ImportError as error:
            raise TwinError(
                "tune.library is 'scikit-learn-intelex', which is not installed: install the extra `intel` (x86 only), "
                "or set tune.library to 'scikit-learn'",
                field="tune.library",
                value=library,
            ) from error
    elif library != "scikit-learn":
        raise TwinError(
            f"tune.library is {library!r}: give 'scikit-learn' or 'scikit-learn-intelex'",
            field="tune.library",
            value=library,
        )
    return ForestClasses(
        module.RandomForestRegressor, module.RandomForestClassifier, f"{library} {metadata.version(library)}"
    )
