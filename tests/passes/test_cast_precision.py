"""Casting to 16 bits: what the CPU shows of the result, with storage emulated, against the float32 graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from models import (
    CASES,
    branches,
    conv_net,
    embedding,
    feed_for,
    large_constant,
    looped,
    model,
    normal,
    normalised,
    residual,
    resized,
    run,
    shape_arithmetic,
    twins,
    weights_of,
)

from trtpipe.passes.cast_precision import CastPrecision
from trtpipe.passes.emulate_half import EmulateHalf

HALVES = ["float16", "bfloat16"]
CODES = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}
#: relative spacing of the numbers
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def raised(proto: onnx.ModelProto, half: str) -> onnx.ModelProto:
    """bfloat16 convolutions exist since opset 22."""
    return onnx.version_converter.convert_version(proto, 22) if half == "bfloat16" else proto


@pytest.fixture
def lower(apply):
    """(lowered graph, decisions by node) of a graph cast to ``half``."""

    def cast(proto, half, keep=()):
        lowered, decisions = apply(raised(proto, half), CastPrecision(half, keep))
        return lowered, {decision.node: decision for decision in decisions}

    return cast


@pytest.fixture
def result(apply, lower):
    """Outputs of the lowered graph as 16-bit hardware would give them, and those of the float32 graph."""

    def compute(proto, half, feed):
        emulated, _ = apply(lower(proto, half)[0], EmulateHalf())
        return run(emulated, feed), run(proto, feed)

    return compute


def casts(proto: onnx.ModelProto) -> list[str]:
    """Every Cast of the main graph, as ``input->output``."""
    return [f"{node.input[0]}->{node.output[0]}" for node in proto.graph.node if node.op_type == "Cast"]


def kept(decisions) -> dict[str, str]:
    return {name: decision.reason for name, decision in decisions.items() if decision.precision == "float32"}


def float32_nodes(proto, half, lower) -> list[str]:
    return [name.rpartition("_")[0] for name in kept(lower(proto, half)[1])]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", [name for name in CASES if name != "listed_initializers"])
def test_every_case_keeps_its_interface_and_its_result(result, lower, name, half):
    proto = CASES[name]()
    lowered, decisions = lower(proto, half)
    assert [(v.name, v.type) for v in lowered.graph.input] == [(v.name, v.type) for v in proto.graph.input]
    assert [(v.name, v.type.tensor_type.elem_type) for v in lowered.graph.output] == [
        (v.name, v.type.tensor_type.elem_type) for v in proto.graph.output
    ]
    assert all(decision.reason and decision.precision in ("float32", half) for decision in decisions.values())
    found, expected = result(proto, half, feed_for(proto))
    for output, values in expected.items():
        assert found[output].dtype == values.dtype
        np.testing.assert_allclose(found[output], values, rtol=0, atol=8 * EPSILON[half] * np.abs(values).max())


@pytest.mark.parametrize("half", HALVES)
def test_weights_are_stored_in_16_bits_rounded_to_nearest(lower, half):
    lowered, _ = lower(conv_net(), half)
    dtype = np.float16 if half == "float16" else ml_dtypes.bfloat16
    stored = weights_of(lowered)
    for name, values in weights_of(conv_net()).items():
        assert name not in stored
        assert stored[f"{name}_{half}"].dtype == dtype
        np.testing.assert_array_equal(stored[f"{name}_{half}"], values.astype(dtype))


class TestCasts:
    def test_a_net_that_lowers_whole_has_one_at_each_end(self, lower):
        lowered, decisions = lower(conv_net(), "float16")
        assert casts(lowered) == ["x->x_float16", "y_float16->y"]
        assert kept(decisions) == {}

    def test_a_value_with_many_readers_is_cast_once(self, lower):
        proto = model("(float[2] x) => (float[2] y) { a = Relu(x) b = Neg(x) c = Abs(x) d = Add(a, b) y = Add(d, c) }")
        assert casts(lower(proto, "float16")[0]) == ["x->x_float16", "y_float16->y"]

    def test_an_island_costs_two(self, lower):
        lowered, _ = lower(residual(), "float16", ["conv_2"])
        assert casts(lowered) == ["x->x_float16", "r->r_float32", "b->b_float16", "y_float16->y"]

    def test_kept_neighbours_have_none_between(self, lower):
        lowered, decisions = lower(residual(), "float16", ["*"])
        assert casts(lowered) == []
        assert set(kept(decisions).values()) == {"kept by pattern '*'"}
        assert [node.op_type for node in lowered.graph.node] == [node.op_type for node in residual().graph.node]

    def test_an_output_that_others_read_too(self, lower, result):
        proto = model(
            "(float[2,4] x) => (float[2,4] r, float[2,4] y) { r = Relu(x) m = MatMul(r, w) y = Exp(r) z = Neg(m) }",
            w=normal(4, 4),
        )
        lowered, _ = lower(proto, "float16")
        assert casts(lowered) == ["x->x_float16", "r_float16->r"]
        x = normal(2, 4)
        np.testing.assert_array_equal(
            result(proto, "float16", {"x": x})[0]["r"], np.maximum(x.astype(np.float16), 0).astype(np.float32)
        )

    def test_two_outputs_of_one_value(self, lower):
        lowered, _ = lower(twins(), "float16")
        assert casts(lowered) == ["x->x_float16", "y_float16->y", "z_float16->z"]

    def test_an_input_that_is_an_output(self, lower):
        proto = model("(float[2] x) => (float[2] x, float[2] y) { y = Relu(x) }")
        assert casts(lower(proto, "float16")[0]) == ["x->x_float16", "y_float16->y"]

    def test_bodies_are_lowered_inside(self, lower):
        lowered, decisions = lower(branches(), "float16")
        assert kept(decisions) == {"if_1": "control flow: its body is lowered inside"}
        [node] = [node for node in lowered.graph.node if node.op_type == "If"]
        then = node.attribute[0].g
        assert [inner.op_type for inner in then.node] == ["MatMul", "Relu", "Cast"]
        assert then.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert casts(lowered) == ["x->x_float16", "q->q_float16", "y_float16->y"]

    def test_a_loop_keeps_its_state_in_float32(self, lower):
        lowered, _ = lower(looped(), "float16")
        [node] = [node for node in lowered.graph.node if node.op_type == "Loop"]
        assert [inner.op_type for inner in node.attribute[0].g.node] == ["Cast", "Identity", "MatMul", "Tanh", "Cast"]


class TestKept:
    """What stays in float32, with numbers that show why it must."""

    @pytest.mark.parametrize("half", HALVES)
    def test_a_cast_from_integers_inside_the_graph(self, result, lower, half):
        proto = model(
            "(int64[3] i) => (float[3] y) { f = Cast<to=1>(i) g = Mul(f, half) y = Add(g, half) }", half=np.float32(0.5)
        )
        found, _ = result(proto, half, {"i": np.array([1, 3001, 70001])})
        np.testing.assert_array_equal(found["y"], [1, 1501, 35001])
        assert set(kept(lower(proto, half)[1]).values()) == {
            "arithmetic on shapes, indices or masks, exact in float32 only"
        }

    @pytest.mark.parametrize("half", HALVES)
    def test_constants_that_fit_are_lowered_and_never_clamped(self, result, half):
        proto = model("(float[4] x) => (float[4] y) { y = Mul(x, c) }", c=np.float32(2e4))
        found, expected = result(proto, half, {"x": np.array([1, -0.5, 0.25, 2], np.float32)})
        np.testing.assert_allclose(found["y"], expected["y"], rtol=EPSILON[half])

    def test_constants_beyond_float16_stay_as_they_are(self, lower, result):
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

    def test_bfloat16_holds_them(self, lower):
        assert kept(lower(large_constant(2e5), "bfloat16")[1]) == {}

    @pytest.mark.parametrize("value", [65504.0, -65504.0, 2.0**-24, np.inf, -np.inf])
    def test_constants_at_the_limits_of_float16_fit(self, lower, value):
        lowered, decisions = lower(large_constant(value), "float16")
        assert kept(decisions) == {}
        assert weights_of(lowered)["large_float16"] == np.float16(value)

    @pytest.mark.parametrize("value", [65520.0, -1e38, 2.0**-25, -1e-12])
    def test_constants_just_outside_do_not(self, lower, value):
        lowered, decisions = lower(large_constant(value), "float16")
        assert "mul_1" in kept(decisions)
        assert weights_of(lowered)["large"] == np.float32(value)

    @pytest.mark.parametrize("half", HALVES)
    @pytest.mark.parametrize("length", [2049, 3001])
    def test_shape_arithmetic(self, result, half, length):
        proto = shape_arithmetic(length)
        found, expected = result(proto, half, feed_for(proto))
        assert found["y"].shape == expected["y"].shape == (3 * length,)

    @pytest.mark.parametrize("half", HALVES)
    def test_scales_of_a_resize(self, lower, half):
        lowered, decisions = lower(resized(), half)
        assert kept(decisions) == {}
        scales = weights_of(lowered)["scales"]
        assert scales.dtype == np.float32
        assert scales.tolist() == [1, 1, 2, 2]

    @pytest.mark.parametrize("half", HALVES)
    @pytest.mark.parametrize("eps", [1e-12, 1e-20, 1e-7])
    def test_an_epsilon_that_keeps_zeros_from_dividing(self, result, half, eps):
        proto = normalised(eps)
        x = normal(3, 4)
        x[1] = 0
        found, expected = result(proto, half, {"x": x})
        assert not expected["y"][1].any()
        np.testing.assert_allclose(found["y"], expected["y"], atol=8 * EPSILON[half])

    @pytest.mark.parametrize("half", HALVES)
    def test_a_clip_from_below_does_the_same(self, result, half):
        proto = model(
            "(float[N,4] x) => (float[N,4] y) { l = ReduceL2(x, a) s = Shape(x) c = Clip(l, eps) e = Expand(c, s) "
            "y = Div(x, e) }",
            a=np.array([1]), eps=np.float32(1e-12),
        )  # fmt: skip
        found, expected = result(proto, half, {"x": np.array([[3, 4, 0, 0], [0, 0, 0, 0]], np.float32)})
        assert expected["y"].tolist()[1] == [0] * 4
        np.testing.assert_allclose(found["y"], expected["y"], atol=EPSILON[half])

    @pytest.mark.parametrize("half", HALVES)
    def test_a_mask_of_the_lowest_float_even_over_a_whole_row(self, result, lower, half):
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

    @pytest.mark.parametrize("half", HALVES)
    def test_powers_and_their_sums(self, result, half):
        proto = model(
            "(float[2,4] x) => (float[2,4] y) { p = Pow(x, two) s = ReduceSum(p, a) y = Div(p, s) }",
            two=np.float32(2), a=np.array([1]),
        )  # fmt: skip
        x = normal(2, 4) * 400  # squares are beyond float16
        found, expected = result(proto, half, {"x": x})
        np.testing.assert_allclose(found["y"], expected["y"], atol=4 * EPSILON[half])

    @pytest.mark.parametrize("square", ["Mul(c, c)", "Pow(c, two)"])
    @pytest.mark.parametrize("inverse", ["y = Div(c, r)", "i = Reciprocal(r) y = Mul(c, i)"])
    @pytest.mark.parametrize("half", HALVES)
    def test_a_layer_norm_in_pieces_on_large_values(self, result, lower, half, square, inverse):
        proto = model(
            f"(float[N,8] x) => (float[N,8] y) {{ m = ReduceMean(x, a) c = Sub(x, m) q = {square} v = ReduceMean(q, a) "
            f"w = Add(v, eps) r = Sqrt(w) {inverse} }}",
            a=np.array([1]), two=np.float32(2), eps=np.float32(1e-5),
        )  # fmt: skip
        x = normal(3, 8) * 3000
        found, expected = result(proto, half, {"x": x})
        np.testing.assert_allclose(found["y"], expected["y"], atol=8 * EPSILON[half])
        assert "sub_1" not in kept(lower(proto, half)[1])

    def test_what_comes_after_is_lowered_again(self, lower):
        proto = model(
            "(float[N,4] x) => (float[N,4] y) { q = Mul(x, x) s = ReduceMean(q, a) r = Sqrt(s) n = Div(x, r) "
            "m = MatMul(n, w) y = Relu(m) }",
            a=np.array([1]), w=normal(4, 4),
        )  # fmt: skip
        assert float32_nodes(proto, "float16", lower) == ["mul", "reducemean", "sqrt"]

    def test_a_mean_over_an_image_does_not_hold_up_the_classifier(self, lower):
        proto = model(
            "(float[N,4,6,6] x) => (float[N,4] y) { m = ReduceMean<keepdims=0>(x, a) y = MatMul(m, w) }",
            a=np.array([2, 3]), w=normal(4, 4),
        )  # fmt: skip
        assert float32_nodes(proto, "float16", lower) == ["reducemean"]

    def test_a_net_that_takes_bytes_is_lowered_all_the_same(self, lower, result):
        proto = model(
            "(uint8[N,3,8,8] i) => (float[N,4,6,6] y) { x = Cast<to=1>(i) s = Div(x, c) d = Conv(s, w) y = Relu(d) }",
            c=np.float32(255), w=normal(4, 3, 3, 3),
        )  # fmt: skip
        assert float32_nodes(proto, "float16", lower) == ["cast", "div"]
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
        found, expected = result(proto, "float16", {"i": pixels})
        np.testing.assert_allclose(found["y"], expected["y"], atol=0.02)

    def test_positions_of_rotary_embeddings_stay_exact(self, result):
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
            ("r = Relu(x) y = Neg(r)", 20, "float16", None, ""),
        ],
    )
    def test_by_operator_and_opset(self, apply, graph, opset, half, node, reason):
        proto = model(
            f"(float[1,3,4,4] x) => (float[a,b,c,d] y) {{ {graph} }}",
            opset=opset,
            w=normal(2, 3, 3, 3),
            axis=np.int64(0),
        )
        _, decisions = apply(proto, CastPrecision(half))
        found = {decision.node: decision.reason for decision in decisions if decision.precision == "float32"}
        assert list(found) == ([] if node is None else [node])
        assert reason in "".join(found.values())

    def test_foreign_operators(self):
        import onnx_ir as ir

        from trtpipe.passes.graph_pass import run_passes
        from trtpipe.passes.infer_types import InferTypes

        proto = model("(float[2] x) => (float[2] y) { a = Relu(x) b = Odd(a) y = Relu(b) }")
        proto.graph.node[1].domain = "somewhere"
        loaded = ir.serde.deserialize_model(proto)
        results = run_passes(loaded, [InferTypes(), CastPrecision("float16")])
        found = {decision.node: (decision.precision, decision.reason) for decision in results[1].decisions}
        assert found["odd_1"] == ("float32", "operator without a public schema")
        assert found["relu_0"][0] == "float16"
        assert found["relu_2"] == ("float32", "element types unknown")
        assert [node.op_type for node in loaded.graph] == ["Cast", "Relu", "Cast", "Odd", "Relu"]


@pytest.mark.parametrize("half", HALVES)
def test_random_numbers_and_windows_keep_the_type_their_attributes_say(apply, half):
    proto = model(
        "(float[4] x) => (float[4] y) { h = HannWindow(size) z = ConstantOfShape(shape) a = Add(x, h) y = Add(a, z) }",
        size=np.int64(4), shape=np.array([4]),
    )  # fmt: skip
    apply(raised(proto, half), CastPrecision(half))


def test_names_that_are_taken_already(result):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { x_float16 = Neg(x) y_float16 = MatMul(x_float16, w) a = Mul(x, w_float16) "
        "y = Add(a, y_float16) }",
        w=normal(4, 4), w_float16=normal(4),
    )  # fmt: skip
    found, expected = result(proto, "float16", feed_for(proto))
    np.testing.assert_allclose(found["y"], expected["y"], atol=0.02)


def test_a_graph_in_16_bits_already_stays_byte_for_byte(apply):
    once, _ = apply(conv_net(), CastPrecision("float16"))
    twice, decisions = apply(once, CastPrecision("float16"))
    assert twice.SerializeToString() == once.SerializeToString()
    assert [decision.op for decision in decisions] == ["Cast", "Cast"]


def test_integer_graphs_are_no_business_of_this_pass(apply):
    proto = model("(int64[3] i) => (int64[3] y) { a = Add(i, i) y = Mul(a, i) }")
    lowered, decisions = apply(proto, CastPrecision("float16"))
    assert decisions == []
    assert casts(lowered) == []


def test_doubles_stay_doubles(apply):
    proto = model("(double[3] x) => (double[3] y) { y = Relu(x) }")
    lowered, decisions = apply(proto, CastPrecision("float16"))
    assert (decisions, casts(lowered)) == ([], [])
