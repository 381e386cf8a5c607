from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import embedding, model, normal, shape_arithmetic

from trtpipe.passes.clean_up import clean_up
from trtpipe.quantization.patterns import Patterns, recognize


def recognized(proto: onnx.ModelProto) -> Patterns:
    loaded = ir.serde.deserialize_model(proto)
    clean_up(loaded)
    return recognize(loaded)


def named(proto: onnx.ModelProto) -> dict[str, str]:
    return {str(node.outputs[0].name): pattern for node, pattern in recognized(proto).names.items()}


@pytest.mark.parametrize(
    "body",
    [
        "a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
        "a = Mul(x, inverse) b = Erf(a) c = Add(one, b) d = Mul(half, c) y = Mul(d, x)",
        "p = Pow(x, three) q = Mul(p, small) r = Add(x, q) a = Mul(r, tanh) b = Tanh(a) c = Add(b, one) d = Mul(x, c) "
        "y = Mul(d, half)",
    ],
)
def test_gelu(body):
    proto = model(
        f"(float[N,4] x) => (float[N,4] y) {{ {body} }}",
        root=np.float32(2**0.5), inverse=np.float32(2**-0.5), one=np.float32(1), half=np.float32(0.5),
        three=np.float32(3), small=np.float32(0.044715), tanh=np.float32((2 / np.pi) ** 0.5),
    )  # fmt: skip
    found = named(proto)
    assert set(found.values()) == {"GELU"}
    assert {"a", "b", "c", "d", "y"} <= set(found)


def test_a_tanh_alone_is_no_gelu():
    proto = model("(float[N,4] x) => (float[N,4] y) { a = Mul(x, two) b = Tanh(a) y = Add(b, one) }",
                  two=np.float32(2), one=np.float32(1))  # fmt: skip
    assert named(proto) == {}


def test_attention_with_a_mask():
    [attention] = recognized(embedding()).attentions
    assert attention.scores.outputs[0].name == "s"
    assert attention.context.outputs[0].name == "a"
    assert {node.op_type for node in attention.inner} == {"Add", "Softmax"}


def test_attention_with_scaling_and_moves():
    proto = model(
        "(float[N,S,2,8] q, float[N,S,2,8] k, float[N,S,2,8] v) => (float[N,2,S,8] y) { "
        "a = Transpose<perm=[0,2,1,3]>(q) b = Transpose<perm=[0,2,3,1]>(k) c = Transpose<perm=[0,2,1,3]>(v) "
        "s = MatMul(a, b) t = Div(s, eight) p = Softmax<axis=-1>(t) d = Identity(p) y = MatMul(d, c) }",
        eight=np.float32(8),
    )  # fmt: skip
    [attention] = recognized(proto).attentions
    assert (attention.scores.outputs[0].name, attention.context.outputs[0].name) == ("s", "y")


@pytest.mark.parametrize(
    "body",
    [
        "s = MatMul(x, w) p = Softmax(s) y = MatMul(p, w)",  # a classifier and an embedding, no attention
        "p = Softmax(x) y = MatMul(p, p)",
        "s = MatMul(x, x) y = Softmax(s)",
    ],
)
def test_what_is_no_attention(body):
    assert recognized(model(f"(float[4,4] x) => (float[4,4] y) {{ {body} }}", w=normal(4, 4))).attentions == ()


def test_positions_follow_from_shapes_alone():
    assert {value.name for value in recognized(shape_arithmetic()).positions} == {"s", "f", "g", "i"}


def test_a_table_cut_to_a_length_is_no_position():
    proto = model(
        "(float[N,4] x) => (float[M,4] y) { s = Shape(x) n = Slice(s, zero, one) "
        "t = Slice(table, zero, n) y = Add(x, t) }",
        zero=np.array([0]), one=np.array([1]), table=normal(20, 4),
    )  # fmt: skip
    assert {value.name for value in recognized(proto).positions} == {"s", "n"}
