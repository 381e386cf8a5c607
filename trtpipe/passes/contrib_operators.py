"""Operators of onnxruntime's own (domain com.microsoft), written as ONNX's.

onnxruntime's optimizers put them into files. What each computes: onnxruntime/docs/ContribOperators.md; the constants of
FastGelu are those of Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from trtpipe.passes.contrib_attention import attention, multi_head_attention
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of, node_label
from trtpipe.passes.writer import Writer, attribute, text

if TYPE_CHECKING:
    from collections.abc import Sequence

_MICROSOFT = "com.microsoft"
_LAYER_NORMALIZATION = 17
_Writing: TypeAlias = "Callable[[Writer, list[ir.Value | None]], bool]"


class WriteContribOperators(GraphPass):
    """Write the operators of the table below in standard ones; those with inputs that it does not know stay."""

    name = "write_contrib_operators"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh, opset = FreshNames(model), model.graph.opset_imports.get("", 1)
        modified = False
        for node in [each for graph in graphs_of(model) for each in graph if each.domain == _MICROSOFT]:
            write = _WRITTEN.get(node.op_type)
            if write is not None:
                modified |= write(Writer(node, opset, fresh), [*node.inputs, *[None] * (12 - len(node.inputs))])
        return PassResult(self.name, modified)


def unwritten(model: ir.Model) -> str | None:
    """An operator of onnxruntime's own that nothing else is known for, in one sentence; ``None`` if there is none."""
    for node in model.graph.all_nodes():
        if node.domain == _MICROSOFT and node.op_type not in _WRITTEN:
            return (
                f"node {node_label(node)!r} is a {node.op_type} of onnxruntime's own (domain {_MICROSOFT}), "
                "which engines do not have"
            )
    return None


def _others_unused(node: ir.Node) -> bool:
    return not any(output.uses() or output.is_graph_output() for output in node.outputs[1:])


def _erf_gelu(w: Writer, x: ir.Value) -> ir.Value:
    """x / 2 (1 + erf(x / sqrt 2))."""
    bent = w.op("Erf", w.op("Mul", x, w.constant(1 / sqrt(2), x)))
    return w.op("Mul", w.op("Mul", x, w.constant(0.5, x)), w.op("Add", bent, w.constant(1, x)))


def _gelu(w: Writer, given: list[ir.Value | None]) -> bool:
    assert given[0] is not None
    w.replace(_erf_gelu(w, given[0]))
    return True


def _bias_gelu(w: Writer, given: list[ir.Value | None]) -> bool:
    w.replace(_erf_gelu(w, w.op("Add", given[0], given[1])))
    return True


def _fast_gelu(w: Writer, given: list[ir.Value | None]) -> bool:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    x = given[0] if given[1] is None else w.op("Add", given[0], given[1])
    assert x is not None
    cubic = w.op("Mul", w.op("Mul", w.op("Mul", x, x), x), w.constant(0.044715, x))
    bent = w.op("Tanh", w.op("Mul", w.op("Add", x, cubic), w.constant(sqrt(2 / pi), x)))
    w.replace(w.op("Mul", w.op("Mul", x, w.constant(0.5, x)), w.op("Add", bent, w.constant(1, x))))
    return True


def _quick_gelu(w: Writer, given: list[ir.Value | None]) -> bool:
    x = given[0]
    assert x is not None
    scaled = w.op("Mul", x, w.constant(attribute(w.node, "alpha", 1.702), x))
    w.replace(w.op("Mul", x, w.op("Sigmoid", scaled)))
    return True


def _activated(w: Writer, x: ir.Value, parameters: Sequence[float]) -> ir.Value | None:
    """The activation that a fused operator names; ``None`` for an unknown one."""
    kind = text(w.node, "activation", "")
    if not kind:
        return x
    if kind in ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"):
        return w.op(kind, x)
    if kind == "LeakyRelu":
        return w.op(kind, x, having={"alpha": parameters[0] if parameters else 0.01})
    if kind == "HardSigmoid":
        alpha, beta = [*parameters, *(0.2, 0.5)[len(parameters) :]][:2]
        return w.op(kind, x, having={"alpha": alpha, "beta": beta})
    if kind == "Clip" and len(parameters) > 1:
        return w.op(kind, x, w.constant(parameters[0], x), w.constant(parameters[1], x))
    return None


def _fused_conv(w: Writer, given: list[ir.Value | None]) -> bool:
    if text(w.node, "activation", "") not in (*_ACTIVATIONS, ""):
        return False
    found = w.node.attributes.get("activation_params")
    own = ("activation", "activation_params")
    made = w.op("Conv", *(given[:2] if given[2] is None else given[:3]))
    conv = made.producer()
    assert conv is not None
    for name, each in w.node.attributes.items():
        if name not in own:
            conv.attributes[name] = each
    if given[3] is not None:
        made = w.op("Add", made, given[3])
    w.replace(_activated(w, made, () if found is None else found.as_floats()))
    return True


_ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "LeakyRelu", "HardSigmoid", "Clip")


def _fused_gemm(w: Writer, given: list[ir.Value | None]) -> bool:
    if text(w.node, "activation", "") not in ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "LeakyRelu", ""):
        return False
    made = w.op("Gemm", *(given[:2] if given[2] is None else given[:3]))
    gemm = made.producer()
    assert gemm is not None
    for name in ("alpha", "beta", "transA", "transB"):
        if name in w.node.attributes:
            gemm.attributes[name] = w.node.attributes[name]
    w.replace(_activated(w, made, (attribute(w.node, "activation_alpha", 0.01),)))
    return True


def _fused_matmul(w: Writer, given: list[ir.Value | None]) -> bool:
    sides = []
    if attribute(w.node, "transBatchA", 0) or attribute(w.node, "transBatchB", 0):
        return False
    for value, name in zip(given[:2], ("transA", "transB"), strict=True):
        if value is None:
            return False
        if attribute(w.node, name, 0):
            if value.shape is None:
                return False
            rank = len(value.shape)
            order = [*range(rank - 2), rank - 1, rank - 2] if rank > 1 else [0]
            sides.append(w.op("Transpose", value, having={"perm": order}))
        else:
            sides.append(value)
    made = w.op("MatMul", *sides)
    alpha = attribute(w.node, "alpha", 1.0)
    w.replace(made if alpha == 1 else w.op("Mul", made, w.constant(alpha, made)))
    return True


def _normalized(
    w: Writer, x: ir.Value, scale: ir.Value, bias: ir.Value | None, epsilon: float, *, centered: bool
) -> ir.Value:
    """Layer normalization along the last axis; not ``centered``: by the root of the mean square alone."""
    if centered and w.opset >= _LAYER_NORMALIZATION:
        return w.op(
            "LayerNormalization", x, scale, *([] if bias is None else [bias]), having={"axis": -1, "epsilon": epsilon}
        )
    around = w.op("Sub", x, w.reduce("ReduceMean", x, [-1])) if centered else x
    spread = w.reduce("ReduceMean", w.op("Mul", around, around), [-1])
    unit = w.op("Div", around, w.op("Sqrt", w.op("Add", spread, w.constant(epsilon, x))))
    scaled = w.op("Mul", unit, scale)
    return scaled if bias is None else w.op("Add", scaled, bias)


def _layer_normalization(*, centered: bool) -> _Writing:
    def write(w: Writer, given: list[ir.Value | None]) -> bool:
        if attribute(w.node, "axis", -1) != -1 or not _others_unused(w.node):
            return False
        x, scale = given[:2]
        assert x is not None and scale is not None  # noqa: PT018
        w.replace(_normalized(w, x, scale, given[2], attribute(w.node, "epsilon", 1e-5), centered=centered))
        return True

    return write


def _skip_layer_normalization(*, centered: bool) -> _Writing:
    """Input, skip and a bias are added; the sum is the fourth output."""

    def write(w: Writer, given: list[ir.Value | None]) -> bool:
        x, skip, scale = given[:3]
        assert x is not None and skip is not None and scale is not None  # noqa: PT018
        if any(output.uses() or output.is_graph_output() for output in w.node.outputs[1:3]):
            return False
        shift, bias = (given[3], given[4]) if centered else (None, given[3])
        total = w.op("Add", x, skip)
        if bias is not None:
            total = w.op("Add", total, bias)
        result = _normalized(w, total, scale, shift, attribute(w.node, "epsilon", 1e-12), centered=centered)
        w.replace(result, None, None, total)
        return True

    return write


def _embed_layer_normalization(w: Writer, given: list[ir.Value | None]) -> bool:
    """Rows of tables for words, positions and segments are added and normalized; lengths of masks are the second."""
    ids, segments, words, positions, kinds, scale, shift, mask, places = given[:9]
    assert ids is not None and scale is not None  # noqa: PT018
    counted = len(w.node.outputs) > 1 and bool(w.node.outputs[1].uses())
    if counted and mask is None:
        return False
    if places is None:
        length = w.op("Gather", w.op("Shape", ids, dtype=ir.DataType.INT64), w.constant(1), having={"axis": 0})
        places = w.op("Range", w.constant(0), length, w.constant(1))
    total = w.op(
        "Add", w.op("Gather", words, ids, having={"axis": 0}), w.op("Gather", positions, places, having={"axis": 0})
    )
    if segments is not None and kinds is not None:
        total = w.op("Add", total, w.op("Gather", kinds, segments, having={"axis": 0}))
    result = _normalized(w, total, scale, shift, attribute(w.node, "epsilon", 1e-12), centered=True)
    lengths = w.reduce("ReduceSum", mask, [1], keepdims=False) if counted and mask is not None else None
    w.replace(result, lengths, total)
    return True


def _renamed(op: str) -> _Writing:
    """An operator that ONNX has by now."""

    def write(w: Writer, given: list[ir.Value | None]) -> bool:
        made = w.op(op, *w.node.inputs)
        producer = made.producer()
        assert producer is not None
        for name, each in w.node.attributes.items():
            producer.attributes[name] = each
        w.replace(made)
        return True

    return write


_WRITTEN: dict[str, _Writing] = {
    "Attention": attention,
    "BiasGelu": _bias_gelu,
    "EmbedLayerNormalization": _embed_layer_normalization,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "LayerNormalization": _layer_normalization(centered=True),
    "MultiHeadAttention": multi_head_attention,
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _layer_normalization(centered=False),
    "SkipLayerNormalization": _skip_layer_normalization(centered=True),
    "SkipSimplifiedLayerNormalization": _skip_layer_normalization(centered=False),
    "TransposeMatMul": _fused_matmul,
    "Trilu": _renamed("Trilu"),
}
