"""Sequences of tensors whose positions are constants, written as the tensors themselves: engines have no sequences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import array_of, is_constant
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of, node_label
from trtpipe.passes.operators import is_standard
from trtpipe.passes.writer import Writer, attribute

if TYPE_CHECKING:
    from collections.abc import Sequence


#: operator -> which input is a position in a sequence, or the lengths of its pieces
_POSITION = {"SequenceAt": 1, "SequenceErase": 1, "SequenceInsert": 2, "SplitToSequence": 1}
#: operators whose results depend on the sizes of what they read only
_OF_SIZES = frozenset({"Shape", "Size", "SequenceLength"})


class WriteSequences(GraphPass):
    """Write what reads a sequence as what reads the tensor at that position: a Slice, or the tensor put there.

    Left as they are: sequences that a Loop carries, that are outputs, or whose positions are computed.
    """

    name = "write_sequences"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh, opset = FreshNames(model), model.graph.opset_imports.get("", 1)
        modified = False
        for graph in graphs_of(model):
            known: dict[ir.Value, _Elements] = {}
            for node in list(graph):
                if is_standard(node) and node.op_type in (
                    *_MAKERS,
                    "SequenceAt",
                    "SequenceLength",
                    "ConcatFromSequence",
                ):
                    modified |= _visit(node, known, Writer(node, opset, fresh))
        return PassResult(self.name, modified)


def varying_sequence(model: ir.Model) -> str | None:
    """A node of the main graph by a position in a sequence that an input's values decide, in one sentence; or ``None``.

    Sizes do not count: they may be fixed.
    """
    for node in model.graph:
        place = _POSITION.get(node.op_type) if is_standard(node) and _is_read(node) else None
        position = None if place is None or place >= len(node.inputs) else node.inputs[place]
        if position is not None and (source := _input_behind(position)) is not None:
            return (
                f"node {node_label(node)!r} is a {node.op_type} by a position that input {source.name!r} decides; "
                "engines have no sequences"
            )
    return None


def _is_read(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _input_behind(value: ir.Value) -> ir.Value | None:
    """An input of the graph whose values ``value`` is computed from."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        maker = each.producer()
        if maker is None and each.is_graph_input() and not is_constant(each):
            return each
        if maker is not None and maker.op_type not in _OF_SIZES:
            pending += [given for given in maker.inputs if given is not None]
    return None


class _Elements(ABC):
    """The tensors of a sequence."""

    @abstractmethod
    def at(self, w: Writer, position: int) -> ir.Value | None:
        """The tensor at a position, counted from the end if negative; ``None`` where it cannot be told."""

    @abstractmethod
    def all(self, w: Writer) -> list[ir.Value] | None:
        """All tensors; ``None`` where their number is not known."""


class _Listed(_Elements):
    """Tensors that are there already."""

    def __init__(self, values: Sequence[ir.Value]) -> None:
        self._values = list(values)

    def at(self, w: Writer, position: int) -> ir.Value | None:
        """The tensor itself."""
        return self._values[position] if -len(self._values) <= position < len(self._values) else None

    def all(self, w: Writer) -> list[ir.Value] | None:
        """Those listed."""
        return self._values


class _Pieces(_Elements):
    """Pieces of one tensor along an axis.

    Args:
        lengths: of the pieces; or the one length of all but the last, and ``count`` says how many there are.
    """

    def __init__(self, whole: ir.Value, axis: int, lengths: Sequence[int], count: int | None, *, squeeze: bool) -> None:
        self._whole, self._axis, self._lengths, self._count, self._squeeze = whole, axis, lengths, count, squeeze

    def at(self, w: Writer, position: int) -> ir.Value | None:
        """A Slice."""
        if position < 0:
            if self._count is None:
                return None
            position += self._count
        if position < 0 or (self._count is not None and position >= self._count):
            return None
        equal = len(self._lengths) == 1
        begin = position * self._lengths[0] if equal else sum(self._lengths[:position])
        end = begin + (self._lengths[0] if equal else self._lengths[position])
        bounds = (w.constant([begin]), w.constant([end]), w.constant([self._axis]))
        piece = w.op("Slice", self._whole, *bounds)
        return w.squeezed(piece, [self._axis]) if self._squeeze else piece

    def all(self, w: Writer) -> list[ir.Value] | None:
        """As many Slices as there are pieces."""
        found = [self.at(w, position) for position in range(self._count or 0)]
        return None if self._count is None else [piece for piece in found if piece is not None]


def _visit(node: ir.Node, known: dict[ir.Value, _Elements], w: Writer) -> bool:
    """Remember the sequence a node makes, or replace what reads one; whether anything was replaced."""
    if node.op_type in _MAKERS:
        made = _MAKERS[node.op_type](node, known, w)
        if made is not None:
            known[node.outputs[0]] = made
        return False
    sequence = known.get(node.inputs[0]) if node.inputs[0] is not None else None
    if sequence is None:
        return False
    result: ir.Value | None
    if node.op_type == "SequenceAt":
        position = array_of(node.inputs[1])
        result = None if position is None else sequence.at(w, int(position.reshape(())))
    else:
        values = sequence.all(w)
        if values is None:
            return False
        result = w.constant(len(values)) if node.op_type == "SequenceLength" else _joined(node, values, w)
    if result is None:
        return False
    w.replace(result)
    return True


def _joined(node: ir.Node, values: Sequence[ir.Value], w: Writer) -> ir.Value:
    axis = int(attribute(node, "axis", 0))
    parts = [w.unsqueezed(value, [axis]) for value in values] if attribute(node, "new_axis", 0) else values
    return w.op("Concat", *parts, having={"axis": axis})


def _split(node: ir.Node, known: dict[ir.Value, _Elements], w: Writer) -> _Elements | None:
    whole, axis = node.inputs[0], int(attribute(node, "axis", 0))
    if whole is None:
        return None
    size = whole.shape[axis] if whole.shape is not None and -len(whole.shape) <= axis < len(whole.shape) else None
    whole_size = size if isinstance(size, int) else None
    given = node.inputs[1] if len(node.inputs) > 1 else None
    lengths = np.asarray(1) if given is None else array_of(given)
    if lengths is None:
        return None
    if lengths.ndim:
        return _Pieces(whole, axis, [int(each) for each in lengths], len(lengths), squeeze=False)
    length = int(lengths)
    count = None if whole_size is None or length < 1 else -(-whole_size // length)
    squeeze = given is None and not attribute(node, "keepdims", 1)
    return _Pieces(whole, axis, [length], count, squeeze=squeeze) if length > 0 else None


def _construct(node: ir.Node, known: dict[ir.Value, _Elements], w: Writer) -> _Elements | None:
    return _Listed([value for value in node.inputs if value is not None])


def _empty(node: ir.Node, known: dict[ir.Value, _Elements], w: Writer) -> _Elements | None:
    return _Listed([])


def _changed(node: ir.Node, known: dict[ir.Value, _Elements], w: Writer) -> _Elements | None:
    """A sequence with one tensor more or less."""
    before = known.get(node.inputs[0]) if node.inputs[0] is not None else None
    values = None if before is None else before.all(w)
    insert = node.op_type == "SequenceInsert"
    place = node.inputs[1 + insert] if len(node.inputs) > 1 + insert else None
    position = array_of(place)
    if values is None or (place is not None and position is None):
        return None
    index = (len(values) if insert else len(values) - 1) if position is None else int(position.reshape(()))
    values = list(values)
    if not insert:
        return _Listed([value for at, value in enumerate(values) if at != index % len(values)]) if values else None
    added = node.inputs[1]
    if added is None:
        return None
    values.insert(index, added)
    return _Listed(values)


_MAKERS = {
    "SplitToSequence": _split,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceInsert": _changed,
    "SequenceErase": _changed,
}
