"""Forest classes of the chosen library: scikit-learn, or Intel's extension, faster on x86 but not bit-reproducible."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Literal

from sklearn import ensemble

from telemetry.errors import TwinError

Library = Literal["scikit-learn", "scikit-learn-intelex"]
#: How a tree splits a node: at the best threshold of some features (random forest, Breiman 2001), or at the best of
#: one random threshold for each (extremely randomised trees, Geurts et al. 2006, doi:10.1007/s10994-006-6226-1).
Splits = Literal["best", "random"]


@dataclass(frozen=True)
class ForestClasses:
    """The forest classes of one library.

    Attributes:
        tag: name and version of the library, recorded with the tuning run.
    """

    regressor: Any
    classifier: Any
    tag: str


def forests(library: Library, splits: Splits = "best") -> ForestClasses:
    """The forest classes of `library` whose trees split nodes as `splits` says.

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
    tag = f"{library} {metadata.version(library)}"
    if splits == "random":
        return ForestClasses(module.ExtraTreesRegressor, module.ExtraTreesClassifier, tag)
    return ForestClasses(module.RandomForestRegressor, module.RandomForestClassifier, tag)
