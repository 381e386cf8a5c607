from __future__ import annotations

from models import model, normal


def test_a_cheap_node_between_kept_ones_is_kept(lower):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Tanh(a) c = Neg(b) d = Tanh(c) y = MatMul(d, w) }",
        w=normal(4, 4),
    )
    lowered, decisions = lower(proto, "bfloat16", ["tanh_*"])
    assert decisions["neg_2"].reason == "between nodes in float32: two casts would cost more than it"
    assert [node.op_type for node in lowered.graph.node].count("Cast") == 4


def test_a_costly_one_is_lowered(lower):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { b = Tanh(x) c = MatMul(b, w) d = Tanh(c) y = Neg(d) }", w=normal(4, 4)
    )
    assert lower(proto, "float16", ["tanh_*"])[1]["matmul_1"].precision == "float16"


def test_casts_from_16_bits_to_another_type_need_no_float32(lower):
    proto = model("(float[N,4] x) => (int32[N,4] y) { r = Relu(x) y = Cast<to=6>(r) }")
    lowered, _ = lower(proto, "float16")
    assert [(node.op_type, list(node.input)) for node in lowered.graph.node] == [
        ("Cast", ["x"]), ("Relu", ["x_float16"]), ("Cast", ["r"])
    ]  # fmt: skip
