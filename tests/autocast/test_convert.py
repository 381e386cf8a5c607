"""Casting to 16 bits: what the CPU shows of the result, with storage emulated, against the float32 graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from half_formats import EPSILON, HALF_FORMATS, kept, raised
from models import (
    CASES,
    branches,
    conv_net,
    feed_for,
    looped,
    model,
    normal,
    residual,
    twins,
    weights_of,
)

from trtpipe.autocast.convert import ALREADY, CastPrecision
from trtpipe.config.formats import FP16, find_format


def casts(proto: onnx.ModelProto) -> list[str]:
    """Every Cast of the main graph, as ``input->output``."""
    return [f"{node.input[0]}->{node.output[0]}" for node in proto.graph.node if node.op_type == "Cast"]


@pytest.mark.parametrize("half", HALF_FORMATS)
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


@pytest.mark.parametrize("half", HALF_FORMATS)
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

    def test_an_isolated_node_costs_two_casts(self, lower):
        lowered, _ = lower(residual(), "float16", ["conv_2"])
        assert casts(lowered) == ["x->x_float16", "r->r_float32", "b->b_float16", "y_float16->y"]

    def test_kept_neighbors_have_none_between(self, lower):
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


@pytest.mark.parametrize("half", HALF_FORMATS)
def test_random_numbers_and_windows_keep_the_type_their_attributes_say(apply, half):
    proto = model(
        "(float[4] x) => (float[4] y) { h = HannWindow(size) z = ConstantOfShape(shape) a = Add(x, h) y = Add(a, z) }",
        size=np.int64(4), shape=np.array([4]),
    )  # fmt: skip
    _, decisions = apply(raised(proto, half), CastPrecision(find_format(half)))
    kept = {each.op: each.precision for each in decisions if each.op in ("HannWindow", "ConstantOfShape")}
    assert kept == {"HannWindow": "float32", "ConstantOfShape": "float32"}


def test_names_that_are_taken_already(result):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { x_float16 = Neg(x) y_float16 = MatMul(x_float16, w) a = Mul(x, w_float16) "
        "y = Add(a, y_float16) }",
        w=normal(4, 4), w_float16=normal(4),
    )  # fmt: skip
    found, expected = result(proto, "float16", feed_for(proto))
    np.testing.assert_allclose(found["y"], expected["y"], atol=0.02)


def test_a_graph_in_16_bits_already_stays_byte_for_byte(apply):
    once, _ = apply(conv_net(), CastPrecision(FP16))
    twice, decisions = apply(once, CastPrecision(FP16))
    assert twice.SerializeToString() == once.SerializeToString()
    given = [decision.op for decision in decisions if decision.reason != ALREADY]
    assert given == ["Cast", "Cast"]
    assert {decision.precision for decision in decisions if decision.reason == ALREADY} == {"float16"}


def test_integer_graphs_are_no_business_of_this_pass(apply):
    proto = model("(int64[3] i) => (int64[3] y) { a = Add(i, i) y = Mul(a, i) }")
    lowered, decisions = apply(proto, CastPrecision(FP16))
    assert decisions == []
    assert casts(lowered) == []


def test_doubles_stay_doubles(apply):
    proto = model("(double[3] x) => (double[3] y) { y = Relu(x) }")
    lowered, decisions = apply(proto, CastPrecision(FP16))
    assert (decisions, casts(lowered)) == ([], [])
