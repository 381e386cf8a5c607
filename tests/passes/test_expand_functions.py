from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, run
from onnx.helper import make_node

from trtpipe.passes.expand_functions import ExpandFunctions, holds

Q, KV = normal(2, 4, 3, 8), normal(2, 4, 5, 8)
ATTENTION = "(float[2,4,3,8] q, float[2,4,5,8] k, float[2,4,5,8] v) => (float[2,4,3,8] y) "
CASES = {
    "loss": (
        model(
            "(float[3,5] x, int64[3] t) => (float y) { y = SoftmaxCrossEntropyLoss<reduction=\"mean\">(x, t, w) }",
            w=np.abs(normal(5)),
        ),
        {"x": normal(3, 5), "t": np.array([0, 4, 2])},
    ),
    "loss_with_two_outputs": (
        model("(float[3,5] x, int64[3] t) => (float y, float[3,5] p) { y, p = SoftmaxCrossEntropyLoss(x, t) }"),
        {"x": normal(3, 5), "t": np.array([0, 4, 2])},
    ),
    "attributes_left_to_their_defaults": (
        model("(float[2,3] x) => (float[2,3] y) { y = Celu(x) }"),
        {"x": normal(2, 3)},
    ),
    "normalization_with_its_mean": (
        model(
            "(float[2,3,4] x) => (float[2,3,4] y, float[2,3,1] m) { y, m = LayerNormalization(x, g) }", g=normal(4)
        ),
        {"x": normal(2, 3, 4)},
    ),
    "two_of_a_kind": (
        model("(float[2,3] x) => (float[2,3] y) { a = Celu<alpha=2.0>(x) b = Neg(a) y = Celu<alpha=0.5>(b) }"),
        {"x": normal(2, 3)},
    ),
    "inside_a_branch": (
        model(
            "(float[2,3] x, bool c) => (float[2,3] y) { y = If(c) <"
            "then_branch = t () => (float[2,3] a) { a = Celu(x) }, "
            "else_branch = e () => (float[2,3] b) { b = Neg(x) }> }"
        ),
        {"x": normal(2, 3), "c": np.array(True)},
    ),
    "attention_with_a_soft_cap": (
        model(f"{ATTENTION} {{ y = Attention<softcap=2.0>(q, k, v) }}", opset=23, ir_version=11),
        {"q": Q, "k": KV, "v": KV},
    ),
    "attention_with_its_scores": (
        model(
            "(float[2,4,3,8] q, float[2,4,5,8] k, float[2,4,5,8] v) => (float[2,4,3,8] y, float[2,4,3,5] s) "
            "{ y, , , s = Attention(q, k, v) }",
            opset=23, ir_version=11,
        ),
        {"q": Q, "k": KV, "v": KV},
    ),
}  # fmt: skip


def expanded(proto: onnx.ModelProto, apply) -> tuple[onnx.ModelProto, set[str]]:
    """The result, and the operators in it."""
    result, _ = apply(proto, ExpandFunctions())
    return result, {node.op_type for node in ir.serde.deserialize_model(result).graph.all_nodes()}


@pytest.mark.parametrize("name", CASES)
def test_the_body_computes_the_same(name, apply):
    proto, feed = CASES[name]
    before = {node.op_type for node in ir.serde.deserialize_model(proto).graph.all_nodes()}
    result, operators = expanded(proto, apply)
    assert before - operators, "nothing was expanded"
    assert not result.functions
    found, wanted = run(result, feed), run(proto, feed)
    for output, values in wanted.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-5, atol=1e-6)


def test_a_body_that_calls_another_operator_of_the_kind_is_expanded_too(apply):
    _, operators = expanded(CASES["loss"][0], apply)
    assert "NegativeLogLikelihoodLoss" not in operators


@pytest.mark.parametrize(
    "proto",
    [
        model("(float[2,3,4] x) => (float[2,3,4] y) { y = LayerNormalization(x, g) }", g=normal(4)),
        model(f"{ATTENTION} {{ y = Attention<is_causal=1>(q, k, v) }}", opset=23, ir_version=11),
        model("(float[2,3] x) => (float[2,3] y) { a = Gelu(x) b = Softmax(a) y = Relu(b) }"),
    ],
    ids=["one_output", "plain_attention", "others"],
)
def test_what_tensorrt_takes_stays(proto, apply):
    result, _ = expanded(proto, apply)
    assert [node.op_type for node in result.graph.node] == [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize(
    ("node", "written", "opset", "same"),
    [
        (make_node("Cast", ["x"], ["y"], to=1), 13, 19, True),  # one more option
        (make_node("Add", ["x", "x"], ["y"]), 7, 14, True),  # more types
        (make_node("ReduceMean", ["x"], ["y"]), 13, 18, True),
        (make_node("ReduceMean", ["x"], ["y"], axes=[1]), 13, 18, False),  # axes became an input
        (make_node("Pad", ["x"], ["y"], pads=[1, 1]), 2, 11, False),
        (make_node("Scan", ["", "s", "x"], ["t", "y"], num_scan_inputs=1), 8, 9, False),
        (make_node("NoSuchOperator", ["x"], ["y"]), 13, 19, False),
    ],
)
def test_whether_a_node_written_for_an_older_opset_means_the_same(node, written, opset, same):
    assert holds(node, written, opset) is same
