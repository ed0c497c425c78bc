"""Contributions of the features to the output of an exported forest, from the paths of a row through its trees.

The output of a tree is the mean of its root plus, for each split on the path, the change from the mean of the node to
that of its child: the contribution of the feature that the node splits by (Kuz'min et al. 2011,
doi:10.1002/minf.201000173; Saabas 2014; Palczewska et al. 2014, doi:10.1007/978-3-319-04717-1_9).

Imports no training library.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Attribute of the trees' node in a model file that holds the number of training rows of each node.  ONNX defines it as
#: informative only: ONNX Runtime does not use it, and the converter fills it with ones.
SAMPLES = "nodes_hitrates"


@dataclass(frozen=True)
class TreePaths:
    """The trees of one model file: T trees with N nodes in all, F features.

    A leaf is its own child, so that a path that has ended stays where it is.

    Attributes:
        base: output of a row without contributions, in the unit of `mean`.
        roots: int64[T], node of each tree's root.
        feature: int64[N], feature of each node's split.
        threshold: float32[N], `left` is the child for values up to it.
        left, right: int64[N], children.
        mean: float64[N], mean label of the node's training rows over T, so that the leaves of a row add up to the
            output; of a classifier scaled to log-odds.
        sentinel: float32[F], stands for a missing value.
        depth: longest path.
    """

    base: float
    roots: IntArray
    feature: IntArray
    threshold: NDArray[np.float32]
    left: IntArray
    right: IntArray
    mean: FloatArray
    sentinel: NDArray[np.float32]
    depth: int

    @classmethod
    def read(cls, model: Path | bytes) -> TreePaths | None:
        """The trees of a `model.onnx` (path or bytes); None if it does not hold the number of rows of its nodes."""
        # Imported here: it takes 0.2 s and 12 MB, and few processes read trees.
        from onnx import helper, load_from_string, numpy_helper

        graph = load_from_string(model if isinstance(model, bytes) else model.read_bytes()).graph
        nodes: dict[str, list[Any]] = {}
        for node in graph.node:
            nodes.setdefault(node.op_type, []).append(node)
        is_classifier = "TreeEnsembleClassifier" in nodes
        (trees,) = nodes["TreeEnsembleClassifier" if is_classifier else "TreeEnsembleRegressor"]
        (imputer,) = nodes["Imputer"]
        sentinel = _attributes(imputer, helper)["imputed_value_floats"]
        scale, shift = 1.0, 0.0
        if is_classifier:
            constants = {one.name: float(numpy_helper.to_array(one).reshape(-1)[0]) for one in graph.initializer}
            scale, shift = _log_odds(nodes, constants)
        return _trees(_attributes(trees, helper), np.asarray(sentinel, dtype=np.float32), scale, shift)

    def contributions(self, features: NDArray[np.float32]) -> FloatArray:
        """Contribution of each feature, float64[n, F], for `features` float32[n, F], NaN where missing.

        `base` plus the contributions of a row are the model's output: of a regression its value, of a classifier the
        log-odds of its probability, but for the single precision in which ONNX Runtime computes.  A row gets the same
        bits in any batch.
        """
        x = np.where(np.isnan(features), self.sentinel, features)
        n, width = x.shape
        row = np.arange(n)[:, None]
        node = np.tile(self.roots, (n, 1))
        total = np.zeros(n * width)
        for _ in range(self.depth):
            feature = self.feature[node]
            child = np.where(x[row, feature] <= self.threshold[node], self.left[node], self.right[node])
            change = self.mean[child] - self.mean[node]
            total += np.bincount((row * width + feature).ravel(), change.ravel(), minlength=n * width)
            node = child
        return total.reshape(n, width)


def _attributes(node: Any, helper: Any) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _log_odds(nodes: dict[str, list[Any]], constants: dict[str, float]) -> tuple[float, float]:
    """Factor and summand from the forest's probability p to the log-odds of 1 / (1 + exp(a p + b)) (Platt 1999)."""
    (product,) = nodes["Mul"]
    (total,) = [node for node in nodes["Add"] if product.output[0] in node.input]
    (a,), (b,) = ([constants[name] for name in node.input if name in constants] for node in (product, total))
    return -a, -b


def _trees(attributes: dict[str, Any], sentinel: NDArray[np.float32], scale: float, shift: float) -> TreePaths | None:
    def integers(name: str) -> IntArray:
        return np.asarray(attributes[name], dtype=np.int64)

    tree = integers("nodes_treeids")
    roots = np.concatenate([[0], np.cumsum(np.bincount(tree))[:-1]])
    position = roots[tree] + integers("nodes_nodeids")

    def by_position(values: NDArray[Any]) -> NDArray[Any]:
        ordered = np.empty_like(values)
        ordered[position] = values
        return ordered

    own = np.arange(len(tree))
    is_leaf = by_position(np.array([mode == b"LEAF" for mode in attributes["nodes_modes"]]))
    left, right = (
        np.where(is_leaf, own, by_position(roots[tree] + integers(name)))
        for name in ("nodes_truenodeids", "nodes_falsenodeids")
    )
    rows = by_position(np.asarray(attributes[SAMPLES], dtype=np.float64))
    if not np.allclose(rows[left] + rows[right], np.where(is_leaf, 2.0 * rows, rows)):
        return None
    mean = np.zeros(len(tree))
    prefix = "class" if "class_weights" in attributes else "target"
    weights = np.asarray(attributes[f"{prefix}_weights"], dtype=np.float64)
    # The first output is the prediction; further ones are moments of the labels.
    first = integers(f"{prefix}_ids") == 0
    mean[(roots[integers(f"{prefix}_treeids")] + integers(f"{prefix}_nodeids"))[first]] = scale * weights[first]
    levels = [roots[~is_leaf[roots]]]
    while len(levels[-1]):
        children = np.concatenate([left[levels[-1]], right[levels[-1]]])
        levels.append(children[~is_leaf[children]])
    for level in reversed(levels):
        of_left, of_right = rows[left[level]], rows[right[level]]
        mean[level] = (of_left * mean[left[level]] + of_right * mean[right[level]]) / rows[level]
    return TreePaths(
        base=float(mean[roots].sum()) + shift,
        roots=roots,
        feature=by_position(integers("nodes_featureids")),
        threshold=by_position(np.asarray(attributes["nodes_values"], dtype=np.float32)),
        left=left,
        right=right,
        mean=mean,
        sentinel=sentinel,
        depth=len(levels) - 1,
    )
