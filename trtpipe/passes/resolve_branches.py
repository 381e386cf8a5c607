"""Replace every If whose condition follows from sizes by the branch that is taken.

PyTorch's exporters write what a module asks about its tensors as branches: ``x.squeeze(1)`` becomes "if dimension 1
is 1, Squeeze, else nothing", and a module that takes two ranks holds all of its work twice. TensorRT takes such
branches for real ones, and builds only a few that lie in each other. What is decided by values stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from trtpipe.config.shapes import gives_values
from trtpipe.passes.constants import add_constant, array_of, drop_unused, replace_value
from trtpipe.passes.fold_constants import FoldConstants
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of, owners_of
from trtpipe.passes.operators import is_standard, made_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: An If, and whether its condition holds.
Decided: TypeAlias = "tuple[ir.Node, bool]"


class ResolveBranches(GraphPass):
    """Replace every If whose condition follows from known sizes by the nodes of its branch.

    Sizes are known where an input has them fixed, and from there by ONNX's shape inference; sizes that the file
    states for tensors inside are not used. Nothing but branches changes: known sizes decide, and are not written.

    Where what decides the outer branch is not known, one of the two may be for other sizes than the known ones, and
    never be taken with these. What they decide in there can be a graph that no runtime loads; it stays undecided then.
    """

    name = "resolve_branches"
    one_protobuf = True  # ONNX's shape inference

    def __init__(self, fixed: Mapping[str, Sequence[int | None]] | None = None) -> None:
        """Remember what every use of the model will have.

        Args:
            fixed: dynamic input -> its dimensions, ``None`` where they vary; or, of an integer input whose content is
                given, its values.
        """
        self._fixed = fixed or {}

    def call(self, model: ir.Model) -> PassResult:
        """Resolve outer branches first: what their bodies read is known only then."""
        modified, refused = False, set[ir.Node]()
        while group := self._next_group(model, refused):
            _resolve(model, group)
            modified = True
        return PassResult(self.name, modified=modified)

    def _next_group(self, model: ir.Model, refused: set[ir.Node]) -> list[Decided]:
        """What to resolve next: all that lies in no undecided branch, or all in one such; those refused are added."""
        groups: dict[ir.Graph | None, list[Decided]] = {}
        for node, taken in self._decided(model):
            if node not in refused:
                groups.setdefault(_undecided_branch(node, model), []).append((node, taken))
        if None in groups:
            return groups[None]
        for group in groups.values():
            if _loads_after(model, group):
                return group
            refused.update(node for node, _ in group)
        return []

    def _decided(self, model: ir.Model) -> list[Decided]:
        """Every If whose condition is known, and the condition; outer ones first."""
        if not _branches(model):
            return []
        copy = model.clone()
        found = list(zip(_branches(model), _branches(copy), strict=True))
        self._fix(copy)
        _drop_shapes(copy)
        for value in (entry for body in copy.graph.subgraphs() for entry in body.inputs):
            value.shape = None  # a loop may carry something that grows
        common.ShapeInferencePass(check_type=False, strict_mode=False)(copy)
        _read_sizes(copy)
        FoldConstants().call(copy)
        conditions = [(node, array_of(twin.inputs[0])) for node, twin in found]
        return [(node, bool(value.any())) for node, value in conditions if value is not None and value.size == 1]

    def _fix(self, model: ir.Model) -> None:
        """Write into the model what is fixed."""
        fresh = FreshNames(model)
        for entry in model.graph.inputs:
            numbers = self._fixed.get(str(entry.name), ())
            if entry.shape is None or entry.dtype in (None, ir.DataType.UNDEFINED):
                continue
            dims = [dim if isinstance(dim, int) else None for dim in entry.shape]
            values = [number for number in numbers if number is not None]
            if len(values) == len(numbers) and gives_values(entry.dtype.numpy().name, dims, values):
                content = np.array(values, entry.dtype.numpy()).reshape([len(values)] * len(dims))
                entry.replace_all_uses_with(add_constant(model.graph, fresh, f"{entry.name}_known", content))
            elif len(numbers) == len(dims):
                entry.shape = ir.Shape(
                    [number if dim is None else dim for dim, number in zip(dims, numbers, strict=True)]
                )


def _resolve(model: ir.Model, decided: list[Decided]) -> None:
    fresh = FreshNames(model)
    for node, taken in decided:
        _inline(node, "then_branch" if taken else "else_branch", fresh)
    drop_unused(model)
    _drop_shapes(model)  # the shape in the file of an If's results held for either branch


def _undecided_branch(node: ir.Node, model: ir.Model) -> ir.Graph | None:
    """The outermost branch of an If in which a node lies."""
    graph, owners, found = node.graph, owners_of(model), None
    while isinstance(graph, ir.Graph) and graph in owners:
        found = graph if owners[graph].op_type == "If" else found
        graph = owners[graph].graph
    return found


def _loads_after(model: ir.Model, decided: list[Decided]) -> bool:
    """Whether ranks and types still fit when these are resolved, as runtimes ask; or did not before either."""
    copy = model.clone()
    twins = dict(zip(_branches(model), _branches(copy), strict=True))
    _resolve(copy, [(twins[node], taken) for node, taken in decided])
    return _fits(copy) or not _fits(model)


def _fits(model: ir.Model) -> bool:
    try:
        onnx.shape_inference.infer_shapes(ir.serde.serialize_model(model), strict_mode=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def _branches(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph.all_nodes() if node.op_type == "If" and is_standard(node)]


def _drop_shapes(model: ir.Model) -> None:
    """Drop the shapes of what nodes make, but for the model's own outputs."""
    kept = set(model.graph.outputs)
    for graph in graphs_of(model):
        for value in (output for node in graph for output in node.outputs if output not in kept):
            value.shape = None


def _read_sizes(model: ir.Model) -> None:
    """Let constants stand for sizes that are known: a Shape, the number of its elements, or some of them."""
    fresh = FreshNames(model)
    for node in list(model.graph.all_nodes()):
        graph, known = node.graph, _known(node)
        if known is not None and isinstance(graph, ir.Graph) and not node.outputs[0].is_graph_output():
            replace_value(node.outputs[0], add_constant(graph, fresh, f"{node.outputs[0].name}_known", known))


def _known(node: ir.Node) -> np.ndarray | None:
    """The result of a node that reads sizes, if all it reads are known."""
    if not is_standard(node) or not node.inputs:
        return None
    if node.op_type == "Shape":
        return _array(_sizes(node))
    shape = made_by(node.inputs[0], "Shape")
    sizes = None if shape is None else _sizes(shape)
    if sizes is None:
        return None
    if node.op_type == "Size":
        return np.array(len(sizes), np.int64)
    chosen = array_of(node.inputs[1]) if node.op_type == "Gather" else None
    if chosen is None or not all(-len(sizes) <= index < len(sizes) for index in chosen.flat):
        return None
    found = _array([sizes[int(index)] for index in chosen.flat])
    return None if found is None else found.reshape(chosen.shape)


def _sizes(shape: ir.Node) -> list[int | None] | None:
    """What a Shape node gives, ``None`` for each size that is not known; ``None`` if not even the rank is."""
    value = shape.inputs[0]
    if value is None or value.shape is None:
        return None
    start, end = (shape.attributes.get_int(name) for name in ("start", "end"))
    return [dim if isinstance(dim, int) else None for dim in value.shape][start:end]


def _array(sizes: Sequence[int | None] | None) -> np.ndarray | None:
    return None if sizes is None or None in sizes else np.array(sizes, np.int64)


def _inline(node: ir.Node, branch: str, fresh: FreshNames) -> None:
    """Put the nodes of one branch in the place of their If."""
    graph, body = node.graph, node.attributes[branch].as_graph()
    assert isinstance(graph, ir.Graph)
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        value.name = fresh(name)
        graph.register_initializer(value)
    results, nodes = list(body.outputs), list(body)
    body.outputs.clear()
    body.remove(nodes)
    graph.insert_before(node, nodes)
    for old, result in zip(node.outputs, results, strict=True):
        replace_value(old, _named(node, old, result, fresh) if old.is_graph_output() else result)
    graph.remove(node, safe=True)
    for each in nodes:
        if each.op_type == "Identity" and is_standard(each) and not each.outputs[0].is_graph_output():
            assert each.inputs[0] is not None
            replace_value(each.outputs[0], each.inputs[0])


def _named(node: ir.Node, old: ir.Value, result: ir.Value, fresh: FreshNames) -> ir.Value:
    """A value of its own for an output of the graph: a result may be a constant, or be given twice."""
    label, copy = fresh(f"{node.name}_taken"), ir.val(fresh(f"{old.name}_taken"), shape=old.shape, type=old.type)
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, ir.node("Identity", [result], outputs=[copy], name=label))
    return copy
