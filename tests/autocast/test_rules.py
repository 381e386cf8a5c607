"""What is kept in float32, with numbers that show why it must."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from half_formats import EPSILON, HALF_FORMATS, kept
from models import embedding, feed_for, large_constant, model, normal, normalized, resized, shape_arithmetic, weights_of

from trtpipe.autocast.convert import CastPrecision
from trtpipe.config.formats import FP16, find_format
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes


def float32_nodes(proto, half, lower) -> list[str]:
    return [name.rpartition("_")[0] for name in kept(lower(proto, half)[1])]


@pytest.mark.parametrize("half", HALF_FORMATS)
def test_a_cast_from_integers_inside_the_graph(result, lower, half):
    proto = model(
        "(int64[3] i) => (float[3] y) { f = Cast<to=1>(i) g = Mul(f, half) y = Add(g, half) }", half=np.float32(0.5)
    )
    found, _ = result(proto, half, {"i": np.array([1, 3001, 70001])})
    np.testing.assert_array_equal(found["y"], [1, 1501, 35001])
    assert set(kept(lower(proto, half)[1]).values()) == {
        "arithmetic on shapes, indices or masks, exact in float32 only"
    }


@pytest.mark.parametrize("half", HALF_FORMATS)
def test_constants_that_fit_are_lowered_and_never_clamped(result, half):
    proto = model("(float[4] x) => (float[4] y) { y = Mul(x, c) }", c=np.float32(2e4))
    found, expected = result(proto, half, {"x": np.array([1, -0.5, 0.25, 2], np.float32)})
    np.testing.assert_allclose(found["y"], expected["y"], rtol=EPSILON[half])


def test_constants_beyond_float16_stay_as_they_are(lower, result):
    proto = large_constant(2e5)
    lowered, decisions = lower(proto, "float16")
    assert weights_of(lowered)["large"] == np.float32(2e5)
    assert kept(decisions) == {
        "mul_1": "constant 'large' reaches 2e+05, beyond float16",
        "div_2": "constant 'large' reaches 2e+05, beyond float16",
    }
    found, expected = result(proto, "float16", feed_for(proto))
    assert np.isfinite(found["y"]).all()
    np.testing.assert_allclose(found["y"], expected["y"], atol=0.01)


def test_bfloat16_holds_them(lower):
    assert kept(lower(large_constant(2e5), "bfloat16")[1]) == {}


@pytest.mark.parametrize("value", [65504.0, -65504.0, 2.0**-24, np.inf, -np.inf])
def test_constants_at_the_limits_of_float16_fit(lower, value):
    lowered, decisions = lower(large_constant(value), "float16")
    assert kept(decisions) == {}
    assert weights_of(lowered)["large_float16"] == np.float16(value)


@pytest.mark.parametrize("value", [65520.0, -1e38, 2.0**-25, -1e-12])
def test_constants_just_outside_do_not(lower, value):
    lowered, decisions = lower(large_constant(value), "float16")
    assert "mul_1" in kept(decisions)
    assert weights_of(lowered)["large"] == np.float32(value)


@pytest.mark.parametrize("half", HALF_FORMATS)
@pytest.mark.parametrize("length", [2049, 3001])
def test_shape_arithmetic(result, half, length):
    proto = shape_arithmetic(length)
    found, expected = result(proto, half, feed_for(proto))
    assert found["y"].shape == expected["y"].shape == (3 * length,)


@pytest.mark.parametrize("half", HALF_FORMATS)
def test_scales_of_a_resize(lower, half):
    lowered, decisions = lower(resized(), half)
    assert kept(decisions) == {}
    scales = weights_of(lowered)["scales"]
    assert scales.dtype == np.float32
    assert scales.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("half", HALF_FORMATS)
@pytest.mark.parametrize("eps", [1e-12, 1e-20, 1e-7])
def test_an_epsilon_that_keeps_zeros_from_dividing(result, half, eps):
    proto = normalized(eps)
    x = normal(3, 4)
    x[1] = 0
    found, expected = result(proto, half, {"x": x})
    assert not expected["y"][1].any()
    np.testing.assert_allclose(found["y"], expected["y"], atol=8 * EPSILON[half])


@pytest.mark.parametrize("half", HALF_FORMATS)
def test_a_clip_from_below_does_the_same(result, half):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { l = ReduceL2(x, a) s = Shape(x) c = Clip(l, eps) e = Expand(c, s) "
        "y = Div(x, e) }",
        a=np.array([1]), eps=np.float32(1e-12),
    )  # fmt: skip
    found, expected = result(proto, half, {"x": np.array([[3, 4, 0, 0], [0, 0, 0, 0]], np.float32)})
    assert expected["y"].tolist()[1] == [0] * 4
    np.testing.assert_allclose(found["y"], expected["y"], atol=EPSILON[half])


@pytest.mark.parametrize("half", HALF_FORMATS)
def test_a_mask_of_the_lowest_float_even_over_a_whole_row(result, lower, half):
    proto = embedding()
    feed = feed_for(proto)
    feed["mask"][0] = 0
    found, expected = result(proto, half, feed)
    assert np.isfinite(expected["y"]).all()
    np.testing.assert_allclose(found["y"], expected["y"], atol=8 * EPSILON[half] * np.abs(expected["y"]).max())
    lowered, decisions = lower(proto, half)
    assert weights_of(lowered)["lowest"] == np.finfo(np.float32).min
    assert {"add_7", "softmax_8"} <= set(kept(decisions))
    assert {"gather_0", "matmul_2", "matmul_9", "matmul_10"} & set(kept(decisions)) == set()


@pytest.mark.parametrize("half", HALF_FORMATS)
def test_powers_and_their_sums(result, half):
    proto = model(
        "(float[2,4] x) => (float[2,4] y) { p = Pow(x, two) s = ReduceSum(p, a) y = Div(p, s) }",
        two=np.float32(2), a=np.array([1]),
    )  # fmt: skip
    x = normal(2, 4) * 400  # squares are beyond float16
    found, expected = result(proto, half, {"x": x})
    np.testing.assert_allclose(found["y"], expected["y"], atol=4 * EPSILON[half])


@pytest.mark.parametrize("square", ["Mul(c, c)", "Pow(c, two)"])
@pytest.mark.parametrize("inverse", ["y = Div(c, r)", "i = Reciprocal(r) y = Mul(c, i)"])
@pytest.mark.parametrize("half", HALF_FORMATS)
def test_a_layer_norm_in_pieces_on_large_values(result, lower, half, square, inverse):
    proto = model(
        f"(float[N,8] x) => (float[N,8] y) {{ m = ReduceMean(x, a) c = Sub(x, m) q = {square} v = ReduceMean(q, a) "
        f"w = Add(v, eps) r = Sqrt(w) {inverse} }}",
        a=np.array([1]), two=np.float32(2), eps=np.float32(1e-5),
    )  # fmt: skip
    x = normal(3, 8) * 3000
    found, expected = result(proto, half, {"x": x})
    np.testing.assert_allclose(found["y"], expected["y"], atol=8 * EPSILON[half])
    assert "sub_1" not in kept(lower(proto, half)[1])


def test_what_comes_after_is_lowered_again(lower):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { q = Mul(x, x) s = ReduceMean(q, a) r = Sqrt(s) n = Div(x, r) "
        "m = MatMul(n, w) y = Relu(m) }",
        a=np.array([1]), w=normal(4, 4),
    )  # fmt: skip
    assert float32_nodes(proto, "float16", lower) == ["mul", "reducemean", "sqrt"]


def test_a_mean_over_an_image_does_not_hold_up_the_classifier(lower):
    proto = model(
        "(float[N,4,6,6] x) => (float[N,4] y) { m = ReduceMean<keepdims=0>(x, a) y = MatMul(m, w) }",
        a=np.array([2, 3]), w=normal(4, 4),
    )  # fmt: skip
    assert float32_nodes(proto, "float16", lower) == ["reducemean"]


def test_a_net_that_takes_bytes_is_lowered_all_the_same(lower, result):
    proto = model(
        "(uint8[N,3,8,8] i) => (float[N,4,6,6] y) { x = Cast<to=1>(i) s = Div(x, c) d = Conv(s, w) y = Relu(d) }",
        c=np.float32(255), w=normal(4, 3, 3, 3),
    )  # fmt: skip
    assert float32_nodes(proto, "float16", lower) == ["cast", "div"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    found, expected = result(proto, "float16", {"i": pixels})
    np.testing.assert_allclose(found["y"], expected["y"], atol=0.02)


def test_positions_of_rotary_embeddings_stay_exact(result):
    proto = model(
        "(int64[1,S] ids) => (float[1,S,3] y) { f = Cast<to=1>(ids) u = Unsqueeze(f, two) a = MatMul(u, freq) "
        "y = Cos(a) }",
        two=np.array([2]), freq=np.array([[1, 0.1, 0.01]], np.float32),
    )  # fmt: skip
    ids = np.array([[5, 2047, 3001, 8191]])
    found, _ = result(proto, "float16", {"ids": ids})
    angles = ids[..., np.newaxis].astype(np.float32) * np.array([1, 0.1, 0.01], np.float32)
    np.testing.assert_allclose(found["y"], np.cos(angles), atol=1e-3)


@pytest.mark.parametrize(
    ("graph", "opset", "half", "node", "reason"),
    [
        ("y = Conv(x, w)", 20, "bfloat16", "conv_0", "the operator takes no bfloat16"),
        ("y = Conv(x, w)", 22, "bfloat16", None, ""),
        ("y = Exp(x)", 20, "float16", "exp_0", "sums or powers"),
        ("y = CumSum(x, axis)", 20, "float16", "cumsum_0", "sums or powers"),
        ("y = Tan(x)", 20, "float16", "tan_0", "near its poles"),
        ("r = Relu(x) y = Neg(r)", 20, "float16", None, ""),
    ],
)
def test_by_operator_and_opset(apply, graph, opset, half, node, reason):
    proto = model(
        f"(float[1,3,4,4] x) => (float[a,b,c,d] y) {{ {graph} }}",
        opset=opset,
        w=normal(2, 3, 3, 3),
        axis=np.int64(0),
    )
    _, decisions = apply(proto, CastPrecision(find_format(half)))
    found = {decision.node: decision.reason for decision in decisions if decision.precision == "float32"}
    assert list(found) == ([] if node is None else [node])
    assert reason in "".join(found.values())


def test_foreign_operators():
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x) b = Odd(a) y = Relu(b) }")
    proto.graph.node[1].domain = "somewhere"
    loaded = ir.serde.deserialize_model(proto)
    results = run_passes(loaded, [InferTypes(), CastPrecision(FP16)])
    found = {decision.node: (decision.precision, decision.reason) for decision in results[1].decisions}
    assert found["odd_1"] == ("float32", "operator without a public schema")
    assert found["relu_0"][0] == "float16"
    assert found["relu_2"] == ("float32", "element types unknown")
    assert [node.op_type for node in loaded.graph] == ["Cast", "Relu", "Cast", "Odd", "Relu"]


def test_operators_of_classical_learning():
    """Thresholds of trees decide otherwise in 16 bits."""
    proto = model("(float[2,3] x) => (float[2,1] y) { a = Relu(x) y = TreeEnsemble(a) }")
    proto.graph.node[1].domain = "ai.onnx.ml"
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 5))
    loaded = ir.serde.deserialize_model(proto)
    results = run_passes(loaded, [InferTypes(), CastPrecision(FP16)])
    found = {decision.node: (decision.precision, decision.reason) for decision in results[1].decisions}
    assert found["treeensemble_1"] == ("float32", "operator outside ONNX's main set")


def test_operators_that_tensorrt_builds_in_no_bfloat16_stay_in_float32():
    proto = model(
        "(float[1, 2, 4, 4] x) => (float[1, 3, 8, 8] y) { a = HardSwish(x) y = ConvTranspose<strides=[2, 2]>(a, w) }",
        w=np.ones((2, 3, 2, 2), np.float32),
    )
    raised = onnx.version_converter.convert_version(proto, 22)
    found = {}
    for half in HALF_FORMATS:
        graph = ir.serde.deserialize_model(raised)
        *_, result = run_passes(graph, [InferTypes(), CastPrecision(find_format(half))])
        found[half] = [decision.precision for decision in result.decisions]
    assert found == {"float16": ["float16", "float16"], "bfloat16": ["float32", "float32"]}


@pytest.mark.parametrize(
    ("zero", "scale", "kept"),
    [(np.int8(0), 512.0, False), (np.int8(0), 1024.0, True), (np.array(0, ml_dtypes.float8_e5m2), 2.0, True)],
)
def test_what_a_dequantizer_can_make_must_fit(zero, scale, kept):
    proto = model(
        "(float[4] x) => (float[4] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Neg(d) }",
        opset=23, s=np.float32(scale), z=zero,
    )  # fmt: skip
    loaded = ir.serde.deserialize_model(proto)
    results = run_passes(loaded, [InferTypes(), CastPrecision(FP16)])
    found = {decision.node: decision.reason for decision in results[1].decisions if decision.precision == "float32"}
    assert ("dequantizelinear_1" in found) is kept
    assert all("beyond float16" in found[node] for node in found if node == "dequantizelinear_1")


@pytest.mark.parametrize(("graph", "kept"), [
    ("(float[1,4,16,8] c, float[1,4,1,8] k, int64[1] i) => (float[1,4,16,8] y)"
     " { h = Relu(k) y = TensorScatter<axis=2>(c, h, i) }", {"tensorscatter_1"}),
    ("(float[1,4,16,8] c, float[1,4,1,8] k, int64[1] i) => (float[1,4,16,8] y)"
     " { h = Relu(c) y = TensorScatter<axis=2>(h, k, i) }", set()),
])  # fmt: skip
def test_a_cache_that_is_updated_in_place_stays_as_the_network_gets_it(graph, kept):
    loaded = ir.serde.deserialize_model(model(graph, opset=24))
    *_, result = run_passes(loaded, [InferTypes(), CastPrecision(FP16)])
    assert {each.node for each in result.decisions if each.precision == "float32"} == kept
    scatter = next(node for node in loaded.graph if node.op_type == "TensorScatter")
    assert (scatter.inputs[0] is loaded.graph.inputs[0]) is bool(kept)
