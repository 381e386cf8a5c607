from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from models import model, normal, save

from trtpipe.backends.target_support import find_float32_product, refuse_graph, refuse_types
from trtpipe.config.target import TARGETS, find_target
from trtpipe.errors import InputError

FP8 = "(float[2,4] x) => (float[2,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
SCALE = np.float32(0.5)


def able(model) -> set[str]:
    return {target.name for target in TARGETS if refuse_types(model, target) is None}


EVERYWHERE = {target.name for target in TARGETS}
FROM_AMPERE = EVERYWHERE - {"sm75"}
FROM_ADA = FROM_AMPERE - {"sm80", "sm86", "sm87"}
BLACKWELL = {"sm100", "sm103", "sm110", "sm120", "sm121"}


@pytest.mark.parametrize(
    ("graph", "weights", "targets"),
    [
        ("(float[2] x) => (float[2] y) { y = Relu(x) }", {}, EVERYWHERE),
        ("(float[2] x) => (float[2] y) { a = Cast<to=10>(x) y = Cast<to=1>(a) }", {}, EVERYWHERE),
        ("(float[2] x) => (float[2] y) { a = Cast<to=16>(x) y = Cast<to=1>(a) }", {}, FROM_AMPERE),
        ("(bfloat16[2] x) => (bfloat16[2] y) { y = Relu(x) }", {}, FROM_AMPERE),
        (FP8, {"s": SCALE, "z": np.int8(0)}, EVERYWHERE),
        (FP8, {"s": SCALE, "z": np.array(0, ml_dtypes.float8_e4m3fn)}, FROM_ADA),
        (
            "(float[2] x) => (float[2] y) { q = QuantizeLinear<output_dtype=17>(x, s) y = DequantizeLinear(q, s) }",
            {"s": SCALE},
            FROM_ADA,
        ),
        ("(float[2] x) => (float[2] y) { y = Identity(x) }", {"w": np.zeros(2, ml_dtypes.int4)}, FROM_AMPERE),
        ("(float[2] x) => (float[2] y) { y = Identity(x) }", {"w": np.zeros(2, ml_dtypes.float4_e2m1fn)}, BLACKWELL),
        (
            "(float[2] x, bool c) => (float[2] y) { y = If(c) <"
            "then_branch = t () => (float[2] a) { h = Cast<to=16>(x) a = Cast<to=1>(h) },"
            "else_branch = e () => (float[2] b) { b = Relu(x) }> }",
            {},
            FROM_AMPERE,
        ),
    ],
)
def test_which_targets_can(write_model, graph, weights, targets):
    assert able(write_model(graph, opset=23, **weights)) == targets


@pytest.mark.parametrize(
    ("graph", "weights", "words"),
    [
        ("(uint16[2] x) => (uint16[2] y) { y = Add(x, x) }", {}, "input 'x' is uint16"),
        ("(float[2] x) => (int16[2] y) { y = Cast<to=5>(x) }", {}, "output 'y' is int16"),
        (
            "(float[2] x) => (float[2] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
            {"s": SCALE, "z": np.int16(0)},
            "constant 'z' is int16",
        ),
    ],
)
def test_types_that_no_target_has(write_model, graph, weights, words):
    model = write_model(graph, opset=23, **weights)
    assert able(model) == set()
    refusal = refuse_types(model, find_target("sm89"))
    assert refusal is not None
    assert refusal.reason == f"model.onnx: {words}, a type that TensorRT does not have"


def test_a_refusal_names_file_place_type_and_target(write_model):
    model = write_model("(float[2] x) => (float[2] y) { a = Cast<to=16>(x) y = Cast<to=1>(a) }")
    refusal = refuse_types(model, find_target("t4"))
    assert refusal is not None
    assert refusal.reason == ("model.onnx: node 'cast_0' (Cast) is bfloat16, which sm75 (Turing) cannot compute")
    assert "sm80" in refusal.remedy
    assert "sm75" not in refusal.remedy


def test_float32_products(write_model, product, conv_net):
    assert find_float32_product(product) == "matmul_0"
    assert find_float32_product(conv_net) is None
    half = write_model("(float16[2,4] x) => (float16[2,4] y) { y = MatMul(x, w) }", w=np.zeros((4, 4), np.float16))
    assert find_float32_product(half) is None
    biased = write_model(
        "(float16[2,4] x, float16[4,4] w) => (float16[2,4] y) { y = Gemm(x, w, b) }", b=np.zeros(4, np.float32)
    )
    assert find_float32_product(biased) is None


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        refuse_types(tmp_path / "m.onnx", find_target("sm89"))


def test_a_node_that_the_importer_takes_for_another_is_refused_by_name(tmp_path):
    graph = model(
        "(float[2,4,8] x) => (float[2,4,8] y) { y = GroupNormalization<num_groups=1>(x, s, s) }",
        opset=21, s=normal(4),
    )  # fmt: skip
    graph.graph.node[0].name = "norm"
    refusal = refuse_graph(save(graph, tmp_path / "m.onnx"), find_target("sm89"))
    assert refusal is not None
    assert "'norm'" in refusal.reason
    assert "InstanceNormalization" in refusal.reason
    graph.graph.node[0].attribute[0].i = 2
    assert refuse_graph(save(graph, tmp_path / "m.onnx"), find_target("sm89")) is None
