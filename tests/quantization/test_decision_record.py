"""Every node has a record, and the record says what became of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import CASES, model, normal, residual
from planning import Quantize

from trtpipe.config.formats import INT8
from trtpipe.passes.decisions import NodeDecision


@pytest.fixture
def told(apply):
    def tell(proto: onnx.ModelProto, amax: dict[str, float]) -> dict[str, NodeDecision]:
        return {each.node: each for each in apply(proto, Quantize(INT8, amax))[1]}

    return tell


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    bodies = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for body in bodies for node in all_nodes(body))]


@pytest.mark.parametrize("name", CASES)
def test_no_node_is_forgotten(apply, name):
    proto = onnx.version_converter.convert_version(CASES[name](), 19) if name != "listed_initializers" else residual()
    amax = dict.fromkeys(
        [v.name for v in proto.graph.input] + [o for n in all_nodes(proto.graph) for o in n.output], 3.0
    )
    decisions = apply(proto, Quantize(INT8, amax))[1]
    assert len(decisions) == len(all_nodes(proto.graph))
    assert all(each.reason and each.precision for each in decisions)


@pytest.mark.parametrize(
    ("body", "word", "constants"),
    [
        ("y = Softmax(x)", "softmax", {}),
        ("y = LayerNormalization(x, s)", "normalization", {"s": normal(4)}),
        ("y = Gelu(x)", "activation", {}),
        ("y = Mul(x, x)", "element by element", {}),
        ("y = Transpose(x)", "data-movement op", {}),
        ("i = ArgMax(x) f = Cast<to=1>(i) y = Mul(f, x)", "", {}),
        ("y = TopK(x, k)", "no rule", {"k": np.array([1])}),
    ],
)
def test_why_an_operator_stays_high(told, body, word, constants):
    outputs = "(float[N,M] y)" if "TopK" not in body else "(float[N,M] y, int64[N,M] i)"
    body = body.replace("y = TopK", "y, i = TopK")
    found = list(told(model(f"(float[4,4] x) => {outputs} {{ {body} }}", **constants), {}).values())
    assert found[-1].precision == "float32"
    assert word in found[-1].reason


def test_an_embedding_and_integers(told):
    proto = model("(int64[N] ids) => (float[N,4] y) { i = Add(ids, one) y = Gather(table, i) }",
                  one=np.int64(1), table=normal(9, 4))  # fmt: skip
    found = told(proto, {})
    assert "embedding" in found["gather_1"].reason
    assert found["add_0"].precision == "int64"


def test_recurrent_nodes_say_why(told):
    proto = model("(float[5,N,4] x) => (float[5,a,b,c] y) { y = RNN<hidden_size=3>(x, w, r) }",
                  w=normal(1, 3, 4), r=normal(1, 3, 3))  # fmt: skip
    assert "fed back" in told(proto, {"x": 1.0})["rnn_0"].reason


def test_moves_between_quantized_nodes_and_their_work(told):
    proto = model(
        "(float[2,16,8,8] x) => (float[2,16,4,4] y) { "
        "m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) y = Conv(m, w) }",
        w=normal(16, 16, 1, 1),
    )  # fmt: skip
    found = told(onnx.shape_inference.infer_shapes(proto), {"m": 3.0})
    assert "quantized values through it" in found["maxpool_0"].reason
    assert found["maxpool_0"].macs is None
    assert found["conv_1"].macs == 2 * 16 * 16 * 16
