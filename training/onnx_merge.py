"""Merge several forests into one ONNX model, so that one call runs all of them.

Needs `onnx`, whose import takes half a second: import this module only where models are merged.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from training.onnx_runtime import ForestFile


def merge(forests: Mapping[str, ForestFile], tables: Mapping[str, int]) -> list[bytes]:
    """Merge `forests` into one model, or one for each operator set that they were exported with.

    Args:
        forests: by name.
        tables: number of columns of each feature table.

    Returns:
        Serialised models.  Each has as inputs the tables that its forests read, float32[n, columns], and for
        each forest an output `<name>/value`, float32[n, 1].
    """
    models = {name: onnx.load_model(forest.path) for name, forest in forests.items()}
    groups: dict[frozenset[tuple[str, int]], list[str]] = {}
    for name, model in models.items():
        operators = frozenset((entry.domain, entry.version) for entry in model.opset_import)
        groups.setdefault(operators, []).append(name)
    merged = []
    for names in groups.values():
        graph = _selection({name: forests[name] for name in names}, tables)
        for name in names:
            prefixed = compose.add_prefix_graph(models[name].graph, f"{name}/", inplace=True)
            graph = compose.merge_graphs(graph, prefixed, [(_selected(name), prefixed.input[0].name)], name="forests")
        first = models[names[0]]
        model = helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
        merged.append(model.SerializeToString())
    return merged


def _selected(name: str) -> str:
    return f"{name}/selected"


def _selection(forests: Mapping[str, ForestFile], tables: Mapping[str, int]) -> onnx.GraphProto:
    """Graph that selects from the tables the columns that each forest reads."""
    nodes, columns, outputs = [], [], []
    for name, forest in forests.items():
        if forest.columns == tuple(range(tables[forest.table])):
            nodes.append(helper.make_node("Identity", [forest.table], [_selected(name)]))  # removed by the optimiser
        else:
            columns.append(numpy_helper.from_array(np.array(forest.columns, dtype=np.int64), f"{name}/columns"))
            nodes.append(helper.make_node("Gather", [forest.table, columns[-1].name], [_selected(name)], axis=1))
        outputs.append(helper.make_tensor_value_info(_selected(name), TensorProto.FLOAT, [None, len(forest.columns)]))
    read = {forest.table for forest in forests.values()}
    inputs = [
        helper.make_tensor_value_info(table, TensorProto.FLOAT, [None, width])
        for table, width in tables.items()
        if table in read
    ]
    return helper.make_graph(nodes, "selection", inputs, outputs, columns)
