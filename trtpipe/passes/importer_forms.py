"""What TensorRT's ONNX importer reads otherwise than ONNX means it, written as what it reads right.

Such a form is imported without a word, and the engine computes something else. Each was found by building models that
differ in one attribute and comparing their plans: ``benchmarks/plan_equality.py`` (TensorRT-RTX 1.7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, array_of, replace_value
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of
from trtpipe.passes.operators import RECURRENT, is_standard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_Rewrite: TypeAlias = Callable[[ir.Node, FreshNames], None]


@dataclass(frozen=True)
class _Form:
    """A form of an operator.

    Attributes:
        applies: whether a node of the operator has this form.
        read_as: what the importer makes of it, for a message.
        rewrite: replaces the node, or changes it in place; it leaves the node alone where sizes that it needs are
            unknown.
    """

    applies: Callable[[ir.Node], bool]
    read_as: str
    rewrite: _Rewrite


class ImporterForms(GraphPass):
    """Write the forms in the table below as others.

    1. GroupNormalization of one group, which is imported as InstanceNormalization, becomes LayerNormalization over all
       axes but the batch's: the same definition (Wu and He 2018, arXiv:1803.08494, section 3), and one kernel.
    2. LSTM, GRU and RNN with ``layout = 1``, which is dropped, get transposed inputs and outputs.
    3. ConvTranspose with ``auto_pad`` SAME, of which ``output_padding`` and ``output_shape`` are dropped, gets its pads
       in numbers.
    4. SpaceToDepth in ``CRD`` mode, imported as ``DCR``, gets its channels put in order.
    """

    name = "importer_forms"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite, in the main graph and in bodies."""
        found = list(_found(model))
        fresh = FreshNames(model)
        for node, form in found:
            form.rewrite(node, fresh)
        return PassResult(self.name, modified=bool(found))


def misread(model: ir.Model) -> tuple[ir.Node, str] | None:
    """The first node that TensorRT would import as something else, and as what; ``None`` where there is none."""
    return next(((node, form.read_as) for node, form in _found(model)), None)


def _found(model: ir.Model) -> Iterator[tuple[ir.Node, _Form]]:
    for graph in graphs_of(model):
        for node in graph:
            form = _FORMS.get(node.op_type) if is_standard(node) else None
            if form is not None and form.applies(node):
                yield node, form


def _integer(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _integers(node: ir.Node, name: str) -> list[int]:
    attribute = node.attributes.get(name)
    return [] if attribute is None else list(attribute.as_ints())


def _text(node: ir.Node, name: str) -> str:
    attribute = node.attributes.get(name)
    return "" if attribute is None else attribute.as_string()


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _fixed(value: ir.Value | None, axis: int) -> int | None:
    """A dimension that does not vary."""
    if value is None or value.shape is None or axis >= len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None


def _insert(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value], name: str, attributes: Sequence[ir.Attr] = ()
) -> ir.Value:
    """A new node before ``node``; its output, of the type of its first input and named like the node."""
    made = ir.Node("", op_type, inputs, attributes, name=name)
    made.outputs[0].name = name
    made.outputs[0].type = inputs[0].type
    _graph_of(node).insert_before(node, made)
    return made.outputs[0]


def _append(
    value: ir.Value, op_type: str, constants: Sequence[ir.Value], attributes: Sequence[ir.Attr], name: str
) -> None:
    """A new node that reads ``value``; whatever read that before reads the new one, of the same type and shape."""
    producer = value.producer()
    assert producer is not None
    after = ir.Node("", op_type, (value, *constants), attributes, name=name)
    new = after.outputs[0]
    new.type, new.shape, new.name = value.type, value.shape, name
    _graph_of(producer).insert_after(producer, after)
    replace_value(value, new)
    after.replace_input_with(0, value)


# GroupNormalization


def _one_group(node: ir.Node) -> bool:
    """One group of several channels; a group for each channel is what the importer reads."""
    return _integer(node, "num_groups") == 1 and _fixed(node.inputs[0], 1) != 1


def _as_layer_normalization(node: ir.Node, fresh: FreshNames) -> None:
    x, scale, bias = node.inputs
    rank = _rank(x)
    assert x is not None
    assert scale is not None
    assert bias is not None
    if rank is None:
        return
    shape = np.array([-1, *[1] * (rank - 2)], np.int64)
    parameters = [_reshaped(node, each, shape, fresh) for each in (scale, bias)]
    kept = [node.attributes[name] for name in ("epsilon", "stash_type") if name in node.attributes]
    made = ir.Node("", "LayerNormalization", (x, *parameters), [ir.AttrInt64("axis", 1), *kept], name=node.name)
    _replace(node, made)


def _reshaped(node: ir.Node, value: ir.Value, shape: np.ndarray, fresh: FreshNames) -> ir.Value:
    """A constant in another shape, or a Reshape before ``node``."""
    graph, name = _graph_of(node), f"{value.name}_per_channel"
    if (array := array_of(value)) is not None:
        return add_constant(graph, fresh, name, array.reshape(shape))
    return _insert(node, "Reshape", (value, add_constant(graph, fresh, f"{name}_shape", shape)), fresh(name))


def _graph_of(node: ir.Node) -> ir.Graph:
    """The graph that the node is in; constants belong beside their readers."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _replace(node: ir.Node, made: ir.Node) -> None:
    """Put ``made`` in the place of ``node``, whose values keep their names, types and shapes."""
    graph = _graph_of(node)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    made.metadata_props.update(node.metadata_props)
    graph.insert_before(node, made)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        replace_value(old, new)
    graph.remove(node)


# LSTM, GRU, RNN

#: input or output, by position -> how batch-first becomes steps-first; of outputs the other way round
_STEPS_FIRST: dict[int, tuple[int, ...]] = {0: (1, 0, 2), 5: (1, 0, 2), 6: (1, 0, 2)}
_BATCH_FIRST: dict[int, tuple[int, ...]] = {0: (2, 0, 1, 3), 1: (1, 0, 2), 2: (1, 0, 2)}


def _batch_first(node: ir.Node) -> bool:
    return _integer(node, "layout") == 1


def _transpose_around(node: ir.Node, fresh: FreshNames) -> None:
    label = node.name or node.op_type.lower()
    for place, axes in _STEPS_FIRST.items():
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is not None:
            permuted = _insert(node, "Transpose", (value,), fresh(f"{label}_input"), [ir.AttrInt64s("perm", axes)])
            node.replace_input_with(place, permuted)
    del node.attributes["layout"]
    for place, axes in _BATCH_FIRST.items():
        old = node.outputs[place] if place < len(node.outputs) else None
        if old is None or not old.name:
            continue
        _append(old, "Transpose", (), [ir.AttrInt64s("perm", axes)], fresh(f"{label}_output"))
        old.shape = None


# ConvTranspose


def _padded_by_name(node: ir.Node) -> bool:
    """SAME padding beside what the importer then drops."""
    given = any(_integers(node, "output_padding")) or bool(_integers(node, "output_shape"))
    return _text(node, "auto_pad").startswith("SAME") and given


def _pad_in_numbers(node: ir.Node, fresh: FreshNames) -> None:
    """The pads that ONNX's definition of ConvTranspose gives."""
    del fresh
    x, weight = node.inputs[:2]
    assert x is not None
    assert weight is not None
    rank = (_rank(weight) or 2) - 2
    given = _integers(node, "kernel_shape")
    kernel: list[int | None] = [*given] or [_fixed(weight, 2 + axis) for axis in range(rank)]
    strides, dilations = (_integers(node, name) or [1] * rank for name in ("strides", "dilations"))
    extra, wanted = _integers(node, "output_padding") or [0] * rank, _integers(node, "output_shape")
    totals = []
    for axis, (size, stride, dilation, more) in enumerate(zip(kernel, strides, dilations, extra, strict=True)):
        if size is None:
            return
        length = _fixed(x, 2 + axis)
        if wanted and length is None:
            return
        surplus = 0 if not wanted else stride * (length or 0) - wanted[axis]
        totals.append((size - 1) * dilation + 1 - stride + more + surplus)
    if min(totals, default=0) < 0:
        return
    less, rest = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = [*less, *rest] if _text(node, "auto_pad") == "SAME_UPPER" else [*rest, *less]
    for name in ("auto_pad", "output_shape"):
        node.attributes.pop(name, None)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    if not node.outputs[0].is_graph_output():
        node.outputs[0].shape = None  # ONNX's shape inference adds the output padding, which SAME takes off again


# SpaceToDepth


def _columns_first(node: ir.Node) -> bool:
    return _text(node, "mode") == "CRD"


def _order_channels(node: ir.Node, fresh: FreshNames) -> None:
    channels, block = _fixed(node.inputs[0], 1), _integer(node, "blocksize")
    if channels is None:
        return
    old = node.outputs[0]
    order = np.arange(block * block * channels).reshape(block * block, channels).T.reshape(-1)
    label = node.name or "space_to_depth"
    indices = add_constant(_graph_of(node), fresh, f"{label}_order", order)
    del node.attributes["mode"]
    _append(old, "Gather", (indices,), [ir.AttrInt64("axis", 1)], fresh(f"{label}_ordered"))


_FORMS = {
    "GroupNormalization": _Form(_one_group, "InstanceNormalization", _as_layer_normalization),
    "ConvTranspose": _Form(_padded_by_name, "ConvTranspose without output_padding and output_shape", _pad_in_numbers),
    "SpaceToDepth": _Form(_columns_first, "SpaceToDepth in DCR mode", _order_channels),
    **{name: _Form(_batch_first, f"{name} of steps, not of batches", _transpose_around) for name in RECURRENT},
}
