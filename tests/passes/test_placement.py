from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import (
    both_sides,
    branches,
    conv_net,
    depthwise,
    looped,
    model,
    normal,
    residual,
    shared_weight,
    transposed,
)

from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.placement import observed_tensors, place


def placed(proto, keep=()):
    loaded = ir.serde.deserialize_model(proto)
    InferTypes().call(loaded)
    return place(loaded, keep)


def summary(proto, keep=()):
    """(operator, activation tensor, weight tensor, axis) of every point."""
    points, _ = placed(proto, keep)
    return [(p.node.op_type, p.tensor, p.node.inputs[p.weight].name, p.axis) for p in points]


@pytest.mark.parametrize(
    ("proto", "points"),
    [
        (conv_net(), [("Conv", "x", "w", 0), ("Gemm", "f", "v", 0)]),
        (residual(), [("Conv", "r", "w", 0), ("Conv", "r", "v", 0)]),
        (depthwise(), [("Conv", "x", "w", 0)]),
        (transposed(), [("ConvTranspose", "x", "w", 1)]),
        (both_sides(), [("MatMul", "x", "w", 1), ("MatMul", "a", "v", 0)]),
        (shared_weight(), [("MatMul", "x", "w", 1), ("Gemm", "x", "w", 0)]),
    ],
    ids=["conv_net", "residual", "depthwise", "transposed", "both_sides", "shared_weight"],
)
def test_points_of_the_weighted_operators(proto, points):
    assert summary(proto) == points


@pytest.mark.parametrize(
    ("shape", "left", "axis"), [((4, 5), False, 1), ((2, 4, 5), False, 2), ((3, 6), True, 0), ((2, 3, 6), True, 1)]
)
def test_axis_of_matmul_weights_of_any_rank(shape, left, axis):
    product = "MatMul(w, x)" if left else "MatMul(x, w)"
    proto = model(f"(float[2,6,4] x) => (float[a,b,c] y) {{ y = {product} }}", w=normal(*shape))
    assert summary(proto) == [("MatMul", "x", "w", axis)]


def test_gemm_without_transposition_has_its_channels_second():
    proto = model("(float[N,4] x) => (float[N,5] y) { y = Gemm(x, w) }", w=normal(4, 5))
    assert summary(proto) == [("Gemm", "x", "w", 1)]


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (looped(), "inside the body of a Loop"),
        (model("(float[4,4] x) => (float[4,4] y) { y = MatMul(x, x) }"), "the weight is not a constant"),
        (model("(float[4] x) => (float[4,4] y) { y = MatMul(w, v) }", w=normal(4, 4), v=normal(4, 4)), "both inputs"),
        (model("(float[N,4] x) => (float[N] y) { y = MatMul(x, w) }", w=normal(4)), "the weight is a vector"),
        (
            model("(float16[N,4] x) => (float16[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4).astype(np.float16)),
            "computes in float16 already",
        ),
        (model("(double[N,4] x) => (double[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4).astype(float)), "double"),
        (model("(float[1,4] x) => (float[4,4] y) { y = Gemm<transA=1>(w, x) }", w=normal(1, 4)), "not a constant"),
    ],
)
def test_nodes_that_stay_say_why(proto, reason):
    points, kept = placed(proto)
    assert points == []
    [decision] = kept
    assert decision.precision == "float32"
    assert reason in decision.reason


def test_branches_are_like_the_main_graph():
    points, kept = placed(branches())
    assert [(point.node.op_type, point.tensor) for point in points] == [("MatMul", "r")]
    assert kept == []


def test_the_user_keeps_nodes_by_shell_patterns():
    points, kept = placed(residual(), ["conv_2", "unknown*"])
    assert [point.node.name for point in points] == ["conv_1"]
    [decision] = kept
    assert (decision.node, decision.op, decision.reason) == ("conv_2", "Conv", "kept by pattern 'conv_2'")
    assert summary(residual(), ["conv_*"]) == []
    assert len(summary(residual(), ["CONV_*"])) == 2  # case matters, as in ONNX


def test_operators_of_other_domains_are_none_of_ours():
    proto = model("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4))
    proto.graph.node[0].domain = "somewhere"
    assert placed(proto) == ([], [])


def test_observed_tensors_come_once_and_in_graph_order():
    points, _ = placed(residual())
    assert observed_tensors(points) == ("r",)
    points, _ = placed(both_sides())
    assert observed_tensors(points) == ("x", "a")
