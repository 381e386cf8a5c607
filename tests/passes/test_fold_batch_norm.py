from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import conv_net, feed_for, model, normal, run, weights_of, with_outputs

from trtpipe.passes.fold_batch_norm import FoldBatchNorm


def statistics(channels: int) -> dict[str, np.ndarray]:
    return {
        "gamma": normal(channels, seed=1), "beta": normal(channels, seed=2), "mean": normal(channels, seed=3),
        "var": np.abs(normal(channels, seed=4)) + 0.1,
    }  # fmt: skip


NORMALISE = "BatchNormalization(c, gamma, beta, mean, var)"
FOLDED = {
    "conv": (conv_net(), ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]),
    "conv with a bias": (
        model(f"(float[1,3,5,5] x) => (float[1,4,3,3] y) {{ c = Conv(x, w, b) y = {NORMALISE} }}",
              w=normal(4, 3, 3, 3), b=normal(4), **statistics(4)),
        ["Conv"],
    ),
    "grouped": (
        model(f"(float[1,6,5,5] x) => (float[1,4,3,3] y) {{ c = Conv<group=2>(x, w) y = {NORMALISE} }}",
              w=normal(4, 3, 3, 3), **statistics(4)),
        ["Conv"],
    ),
    "grouped, transposed": (
        model("(float[1,4,4,4] x) => (float[1,6,8,8] y) {"
              f"c = ConvTranspose<strides=[2,2],group=2>(x, w) y = {NORMALISE} }}",
              w=normal(4, 3, 2, 2), **statistics(6)),
        ["ConvTranspose"],
    ),
    "gemm": (
        model(f"(float[N,4] x) => (float[N,6] y) {{ c = Gemm(x, w, b) y = {NORMALISE} }}",
              w=normal(4, 6), b=normal(6), **statistics(6)),
        ["Gemm"],
    ),
    "gemm, transposed": (
        model(f"(float[N,4] x) => (float[N,6] y) {{ c = Gemm<transB=1>(x, w) y = {NORMALISE} }}",
              w=normal(6, 4), **statistics(6)),
        ["Gemm"],
    ),
    "a sum a channel": (
        model("(float[1,3,5,5] x) => (float[1,4,3,3] y) { c = Conv(x, w) y = Add(o, c) }",
              w=normal(4, 3, 3, 3), o=normal(4, 1, 1)),
        ["Conv"],
    ),
    "a sum, then a normalization": (
        model(f"(float[1,3,5,5] x) => (float[1,4,3,3] y) {{ a = Conv(x, w) c = Add(a, o) y = {NORMALISE} }}",
              w=normal(4, 3, 3, 3), o=normal(1, 1, 1, 1), **statistics(4)),
        ["Conv"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_the_linear_node_takes_it_in(apply, name):
    proto, operators = FOLDED[name]
    folded, _ = apply(proto, FoldBatchNorm())
    assert [node.op_type for node in folded.graph.node] == operators
    feed = feed_for(proto)
    np.testing.assert_allclose(run(folded, feed)["y"], run(proto, feed)["y"], rtol=1e-4, atol=1e-4)
    assert not {"gamma", "beta", "mean", "var"} & set(weights_of(folded))


def test_the_node_keeps_its_name(apply):
    folded, _ = apply(conv_net(), FoldBatchNorm())
    assert folded.graph.node[0].name == "conv_0"


def test_the_folded_weight_by_hand(apply):
    proto = model(
        "(float[N,1] x) => (float[N,2] y) { c = Gemm(x, w, b) y = BatchNormalization<epsilon=0.0>(c, g, h, m, v) }",
        w=np.float32([[3, 5]]), b=np.float32([1, 2]), g=np.float32([2, 1]), h=np.float32([7, 8]),
        m=np.float32([1, 4]), v=np.float32([4, 0.25]),
    )  # fmt: skip
    found = weights_of(apply(proto, FoldBatchNorm())[0])
    np.testing.assert_array_equal(found["y_weight"], [[3, 10]])  # times 2/2 and 1/0.5
    np.testing.assert_array_equal(found["y_bias"], [7, 4])  # (1-1)*1+7 and (2-4)*2+8


@pytest.mark.parametrize(
    "proto",
    [
        model(f"(float[1,3,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] c) {{ c = Conv(x, w) y = {NORMALISE} }}",
              w=normal(4, 3, 3, 3), **statistics(4)),
        model("(float[1,3,5,5] x) => (float[1,4,3,3] y) { c = Conv(x, w) y = Add(c, o) }",
              w=normal(4, 3, 3, 3), o=normal(3, 1)),
        model(f"(float[N,4] x) => (float[N,6] y) {{ c = Gemm<alpha=0.5>(x, w) y = {NORMALISE} }}",
              w=normal(4, 6), **statistics(6)),
        model("(float[1,3,5,5] x) => (float[1,4,3,3] y) { c = Conv(x, w) r = Relu(c) y = Add(r, o) }",
              w=normal(4, 3, 3, 3), o=normal(4, 1, 1)),
    ],
    ids=["its result is an output", "varies along the width", "alpha", "an activation between"],
)  # fmt: skip
def test_what_does_not_fold_stays(apply, proto):
    folded, _ = apply(proto, FoldBatchNorm())
    assert [node.op_type for node in folded.graph.node] == [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize(
    "broken", [statistics(5), statistics(6) | {"mean": normal(5)}, statistics(6) | {"var": normal(1, 6)}]
)
def test_constants_that_contradict_each_other_are_left_to_the_checker(broken):
    proto = model(f"(float[N,4] x) => (float[N,6] y) {{ c = Gemm(x, w) y = {NORMALISE} }}", w=normal(4, 6), **broken)
    graph = ir.serde.deserialize_model(proto)
    assert not FoldBatchNorm().call(graph).modified
    assert [node.op_type for node in graph.graph] == ["Gemm", "BatchNormalization"]


def test_a_shared_weight_is_copied_not_changed(apply):
    proto = model(
        f"(float[1,3,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] z) {{"
        f"c = Conv(x, w) y = {NORMALISE} z = Conv(x, w) }}",
        w=normal(4, 3, 3, 3), **statistics(4),
    )  # fmt: skip
    folded, _ = apply(proto, FoldBatchNorm())
    feed = feed_for(proto)
    np.testing.assert_array_equal(run(folded, feed)["z"], run(with_outputs(proto, ["z"]), feed)["z"])
    np.testing.assert_allclose(run(folded, feed)["y"], run(proto, feed)["y"], rtol=1e-4, atol=1e-4)


def test_a_matmul_of_rank_2_becomes_a_gemm(apply):
    proto = model(
        f"(float[N,4] x) => (float[N,6] y) {{ c = MatMul(x, w) y = {NORMALISE} }}", w=normal(4, 6), **statistics(6)
    )
    inferred = onnx.shape_inference.infer_shapes(proto)
    folded, _ = apply(inferred, FoldBatchNorm())
    assert [node.op_type for node in folded.graph.node] == ["Gemm"]
    feed = feed_for(proto)
    np.testing.assert_allclose(run(folded, feed)["y"], run(proto, feed)["y"], rtol=1e-4, atol=1e-4)
