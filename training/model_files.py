"""Save and load scikit-learn models as skops files (no pickle), with identical bytes for identical models."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import skops.io
from sklearn.base import BaseEstimator

#: Types that are trusted when a model is loaded, besides those that skops itself trusts.
TRUSTED_TYPES: tuple[str, ...] = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.tree._tree.Tree",
)

_SCHEMA = "schema.json"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
# Equal constants may or may not be one object; that depends on the process and has no meaning.
_CONSTANTS = frozenset({"JsonNode", "TypeNode", "DTypeNode"})


def save_canonical_skops(model: BaseEstimator, path: Path) -> None:
    """Write `model` to `path` so that equal models give equal files, in any process.

    skops names objects and arrays by their memory address and adds time stamps; here they are numbered
    in order of appearance with a fixed time stamp, and arrays of equal content are stored once.
    """
    with ZipFile(io.BytesIO(skops.io.dumps(model))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members.pop(_SCHEMA))
    arrays = _Canonical(members).rewrite(schema)
    arrays[_SCHEMA] = json.dumps(schema, sort_keys=False, separators=(",", ":")).encode()
    # Not compressed: the bytes would depend on the zlib of the machine.
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, content in arrays.items():
            archive.writestr(ZipInfo(name, _ZIP_EPOCH), content)


def load_skops(path: Path) -> Any:
    """Load the model in `path`.

    Raises:
        skops.io.exceptions.UntrustedTypesFoundException: the file contains a type outside `TRUSTED_TYPES`.
    """
    return skops.io.load(path, trusted=list(TRUSTED_TYPES))


class _Canonical:
    """Renumbers the objects and arrays of one skops schema in place."""

    def __init__(self, members: dict[str, bytes]) -> None:
        self._members = members
        self._objects: dict[int, int] = {}
        self._n_objects = 0
        self._names: dict[bytes, str] = {}

    def rewrite(self, schema: dict[str, Any]) -> dict[str, bytes]:
        """Renumber `schema` and return the arrays that it refers to, by their new names."""
        self._visit(schema)
        return {name: content for content, name in self._names.items()}

    def _visit(self, node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                self._visit(item)
        elif isinstance(node, dict):
            if "__loader__" in node and "__id__" in node:
                node["__id__"] = self._number(node["__id__"], constant=node["__loader__"] in _CONSTANTS)
            if node.get("type") == "numpy" and "file" in node:
                node["file"] = self._name(_without_padding(self._members[node["file"]]))
            for item in node.values():
                self._visit(item)

    def _number(self, address: int, *, constant: bool) -> int:
        if not constant and address in self._objects:
            return self._objects[address]
        self._n_objects += 1
        if not constant:
            self._objects[address] = self._n_objects
        return self._n_objects

    def _name(self, content: bytes) -> str:
        return self._names.setdefault(content, f"{len(self._names)}.npy")


def _without_padding(npy: bytes) -> bytes:
    """`npy` with the padding between the fields of a record set to zero; trees leave it uninitialised."""
    array = np.load(io.BytesIO(npy), allow_pickle=False)
    if array.dtype.names is None:
        return npy
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()
