"""Forms of ONNX's operators that TensorRT's importer does not take, written in those it takes.

Each is exact: the sums that define the operator, with its constants computed now (onnx/docs/Operators.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from trtpipe.passes.constants import array_of
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of
from trtpipe.passes.operators import is_standard
from trtpipe.passes.writer import Writer, attribute, sizes, text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Elements of the largest tensor that a scatter is spread to: 64 MiB of float32.
_MOST_ELEMENTS = 1 << 24
#: What a scatter reduces by -> the operator of many values, of two, and the value that changes nothing; ``None``: the
#: element itself.
_REDUCED = {
    "add": ("ReduceSum", "Add", 0.0),
    "mul": ("ReduceProd", "Mul", 1.0),
    "max": ("ReduceMax", "Max", None),
    "min": ("ReduceMin", "Min", None),
}


class WriteMissingForms(GraphPass):
    """Write operators in forms that TensorRT takes.

    1. Resize with ``antialias``, of fixed sizes: products with one constant matrix an axis.
    2. Einsum of integers, an ellipsis and diagonals of fixed size in it: products and sums.
    3. ScatterElements with a reduction, of fixed sizes: every element chooses what is scattered to it.
    4. AveragePool and MaxPool with a window larger than a map of fixed sizes: the mean or maximum of the map.
    5. DFT of a fixed size: a product with the matrix of its definition.
    """

    name = "write_missing_forms"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh, opset = FreshNames(model), model.graph.opset_imports.get("", 1)
        modified = False
        for node in [each for graph in graphs_of(model) for each in graph]:
            write = _FORMS.get(node.op_type) if is_standard(node) else None
            if write is not None:
                modified |= write(node, Writer(node, opset, fresh))
        return PassResult(self.name, modified)


def _resize(node: ir.Node, w: Writer) -> bool:
    given = [*node.inputs, None, None, None][:4]
    before = sizes(given[0])
    if not attribute(node, "antialias", 0) or before is None or given[0] is None:
        return False
    if text(node, "keep_aspect_ratio_policy", "stretch") != "stretch" or "crop" in text(node, _COORDINATES, ""):
        return False
    found = node.attributes.get("axes")
    axes = list(range(len(before))) if found is None else [axis % len(before) for axis in found.as_ints()]
    scales, wanted = array_of(given[2]), array_of(given[3])
    changes = wanted if wanted is not None and wanted.size else scales
    if changes is None or len(changes) != len(axes):
        return False
    whole = [
        (axis, change) for axis, change in zip(axes, changes, strict=True)
        if float(change) != (before[axis] if changes is wanted else 1.0)
    ]  # fmt: skip
    if any(axis < len(before) - 2 for axis, _ in whole):
        return False
    result = given[0]
    for axis, change in whole:
        matrix = _resizing(node, before[axis], change, w.opset)
        if axis == len(before) - 1:
            result = w.op("MatMul", result, w.constant(matrix.T, result))
        else:
            result = w.op("MatMul", w.constant(matrix, result), result)
    w.replace(result)
    return True


_COORDINATES = "coordinate_transformation_mode"


def _resizing(node: ir.Node, size: int, change: np.generic, opset: int) -> np.ndarray:
    """[new size, size]: what resizing does to each unit vector."""
    names = ("antialias", _COORDINATES, "cubic_coeff_a", "exclude_outside", "mode", "nearest_mode")
    kept = {name: ir.serde.serialize_attribute(node.attributes[name]) for name in names if name in node.attributes}
    as_sizes = np.issubdtype(change.dtype, np.integer)
    both = np.array([change, size if as_sizes else 1], change.dtype)
    inputs = ["x", "", "", "n"] if as_sizes else ["x", "", "s"]
    resize = onnx.helper.make_node("Resize", inputs, ["y"])
    resize.attribute.extend(kept.values())
    constant = onnx.numpy_helper.from_array(both, inputs[-1])
    graph = onnx.helper.make_graph(
        [resize], "g", [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [size, size])],
        [onnx.ValueInfoProto(name="y")], [constant],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (matrix,) = ReferenceEvaluator(model).run(None, {"x": np.eye(size, dtype=np.float32)})
    return np.asarray(matrix)


def _einsum(node: ir.Node, w: Writer) -> bool:
    """All operands over all indices, multiplied; then the sum over those that the result does not have."""
    operands = [value for value in node.inputs if value is not None]
    if not operands or any(value.dtype is None or not value.dtype.is_integer() for value in operands):
        return False
    indices = _indices(text(node, "equation", "").replace(" ", ""), operands)
    if indices is None:
        return False
    terms, result = indices
    if any(_repeated(term) and not _fixed_diagonal(term, value) for term, value in zip(terms, operands, strict=True)):
        return False
    counts = "".join(terms)
    summed = sorted(set(counts) - set(result))
    order = [*result, *summed]
    total = None
    for whole, operand in zip(terms, operands, strict=True):
        term, value = _diagonal(whole, operand, w)
        inside = [each for each in order if each in term]
        moved = w.op("Transpose", value, having={"perm": [term.index(each) for each in inside]})
        missing = [index for index, each in enumerate(order) if each not in term]
        spread = w.unsqueezed(moved, missing) if missing else moved
        total = spread if total is None else w.op("Mul", total, spread)
    assert total is not None
    if summed:
        total = w.reduce("ReduceSum", total, range(len(result), len(order)), keepdims=False)
    w.replace(total)
    return True


def _indices(equation: str, operands: Sequence[ir.Value]) -> tuple[list[str], str] | None:
    """The indices of each operand and of the result, one character each; digits stand for those of the ellipsis.

    ``None`` where their number is unknown, or not the same in every ellipsis, as ONNX demands.
    """
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands) or any(value.shape is None for value in operands):
        return None
    ranks = [len(value.shape) for value in operands if value.shape is not None]
    counts = {rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term}
    count = next(iter(counts), 0)
    if len(counts) > 1 or not 0 <= count <= 10 or (counts and arrow and "..." not in right):
        return None
    each = "0123456789"[:count]
    terms = [term.replace("...", each) for term in terms]
    if any(len(term) != rank or "." in term for term, rank in zip(terms, ranks, strict=True)):
        return None
    letters = "".join(terms)
    once = sorted(letter for letter in set(letters) - set(each) if letters.count(letter) == 1)
    return terms, right.replace("...", each) if arrow else each + "".join(once)


def _repeated(term: str) -> list[str]:
    return sorted({index for index in term if term.count(index) > 1})


def _fixed_diagonal(term: str, value: ir.Value) -> bool:
    """Whether the sizes of all repeated indices are known."""
    shape = [] if value.shape is None else list(value.shape)
    return all(isinstance(size, int) for index, size in zip(term, shape, strict=True) if term.count(index) > 1)


def _diagonal(term: str, value: ir.Value, w: Writer) -> tuple[str, ir.Value]:
    """A term without repeated indices, and its operand's diagonal: the sum of what is 0 elsewhere."""
    shape = [] if value.shape is None else list(value.shape)
    for index in _repeated(term):
        places = [place for place, other in enumerate(term) if other == index]
        sides = [size if at in places and isinstance(size, int) else 1 for at, size in enumerate(shape)]
        grid = np.indices(sides)
        on = np.all([grid[place] == grid[places[0]] for place in places], axis=0)
        value = w.reduce("ReduceSum", w.op("Mul", value, w.constant(on, value)), places[1:], keepdims=False)
        kept = [place for place in range(len(term)) if place not in places[1:]]
        term, shape = "".join(term[place] for place in kept), [shape[place] for place in kept]
    return term, value


def _scatter(node: ir.Node, w: Writer) -> bool:
    reduction = text(node, "reduction", "none")
    data, places, updates = node.inputs[:3]
    whole, chosen = sizes(data), sizes(places)
    if reduction not in _REDUCED or data is None or places is None or updates is None or whole is None:
        return False
    axis = int(attribute(node, "axis", 0)) % len(whole)
    fits = chosen is not None and all(a == b for at, (a, b) in enumerate(zip(whole, chosen, strict=True)) if at != axis)
    if not fits or chosen is None or int(np.prod(chosen)) * whole[axis] > _MOST_ELEMENTS:
        return False
    reduce, combine, neutral = _REDUCED[reduction]
    here = [1] * (len(whole) + 1)
    here[axis] = whole[axis]
    positions = w.constant(np.arange(whole[axis]).reshape(here), places)
    wrapped = w.op("Mod", places, w.constant(whole[axis], places))  # negative ones count from the end
    meant = w.op("Equal", w.unsqueezed(wrapped, [axis]), positions, dtype=ir.DataType.BOOL)
    other = w.unsqueezed(data, [axis + 1]) if neutral is None else w.constant(neutral, data)
    spread = w.op("Where", meant, w.unsqueezed(updates, [axis]), other, dtype=data.dtype)
    reduced = w.reduce(reduce, spread, [axis + 1], keepdims=False)
    w.replace(w.op(combine, data, reduced))  # all updates may hit one element, which still counts itself
    return True


def _pool(node: ir.Node, w: Writer) -> bool:
    """Windows that reach beyond a map come with ``ceil_mode``; what lies outside does not count."""
    value = node.inputs[0]
    sides = None if value is None or value.shape is None else list(value.shape)[2:]
    window = node.attributes["kernel_shape"].as_ints() if "kernel_shape" in node.attributes else []
    if not sides or len(window) != len(sides) or not all(isinstance(side, int) for side in sides):
        return False
    strides, pads, dilations = (
        found.as_ints() if (found := node.attributes.get(name)) is not None else [usual] * len(sides)
        for name, usual in (("strides", 1), ("pads", 0), ("dilations", 1))
    )
    beyond = [size - side for size, side in zip(window, sides, strict=True) if isinstance(side, int)]
    one = all(0 <= more < stride for more, stride in zip(beyond, strides, strict=True))
    plain = not any(pads) and set(dilations) == {1} and text(node, "auto_pad", "NOTSET") in {"NOTSET", "VALID"}
    if not (one and any(beyond) and plain and len(node.outputs) == 1):
        return False
    w.replace(w.op(f"Global{node.op_type}", value))
    return True


def _dft(node: ir.Node, w: Writer) -> bool:
    """Real and imaginary parts are the last axis: [samples x parts] times [samples x parts, frequencies x 2]."""
    value, length, axis_given = [*node.inputs, None, None][:3]
    shape = None if value is None or value.shape is None else list(value.shape)
    if value is None or shape is None or value.dtype is None or not isinstance(shape[-1], int):
        return False
    axis = array_of(axis_given)
    if axis_given is not None and axis is None:
        return False
    # an attribute up to opset 19, 1 by default; later an input, -2 by default
    place = int(axis) if axis is not None else int(attribute(node, "axis", 1 if w.opset < _DFT_AXIS_GIVEN else -2))
    place, rank, parts = place % len(shape), len(shape), shape[-1]
    samples, count = shape[place], array_of(length)
    inverse, half = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
    if (
        place == rank - 1
        or not isinstance(samples, int)
        or (inverse and half)
        or (length is not None and count is None)
    ):
        return False
    matrix = _frequencies(samples, parts, samples if count is None else int(count), inverse=inverse, half=half)
    if matrix.size > _MOST_ELEMENTS:
        return False
    turned = [axis for axis in range(rank) if axis not in (place, rank - 1)]
    order = [*turned, place, rank - 1]
    rows = w.reshaped(w.op("Transpose", value, having={"perm": order}), [0] * (rank - 2) + [samples * parts])
    product = w.op("MatMul", rows, w.constant(matrix, value))
    both = w.reshaped(product, [0] * (rank - 2) + [matrix.shape[1] // 2, 2])
    w.replace(w.op("Transpose", both, having={"perm": [order.index(axis) for axis in range(rank)]}))
    return True


_DFT_AXIS_GIVEN = 20


def _frequencies(samples: int, parts: int, count: int, *, inverse: bool, half: bool) -> np.ndarray:
    """float64[samples x parts, frequencies x 2]: what the transform of ``count`` samples does to each unit vector."""
    units = np.eye(samples)[:, None, :] * np.array([1, 1j][:parts])[:, None]
    found = (np.fft.ifft if inverse else np.fft.fft)(units, n=count)[..., : count // 2 + 1 if half else count]
    return np.stack([found.real, found.imag], axis=-1).reshape(samples * parts, -1)


_FORMS: dict[str, Callable[[ir.Node, Writer], bool]] = {
    "Resize": _resize,
    "Einsum": _einsum,
    "ScatterElements": _scatter,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "DFT": _dft,
}
