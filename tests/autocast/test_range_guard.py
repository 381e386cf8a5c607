"""Measured extremes decide: each rule just inside and just outside its limit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal

from trtpipe.autocast.convert import CastPrecision
from trtpipe.autocast.tensor_ranges import TensorRange, TensorRanges
from trtpipe.config.formats import FP16, find_format
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes


def decided(proto: onnx.ModelProto, half: str, **tensor_ranges: TensorRange) -> dict[str, str]:
    """Nodes that are kept in float32, and why; tensors not named were seen between -1 and 1."""
    loaded = ir.serde.deserialize_model(proto)
    run_passes(loaded, [InferTypes()])
    names = {str(value.name) for node in loaded.graph.all_nodes() for value in (*node.inputs, *node.outputs) if value}
    known = {name: TensorRange(minimum=-1, maximum=1, smallest=0.5, terms=1) for name in names} | tensor_ranges
    [result] = run_passes(loaded, [CastPrecision(find_format(half), (), TensorRanges(samples=8, tensors=known))])
    return {decision.node: decision.reason for decision in result.decisions if decision.precision == "float32"}


def reaching(value: float, **more: float) -> TensorRange:
    return TensorRange(minimum=-1, maximum=value, **more)


#: A sum behind a layer.
ADD = (
    "(float[N,4] x, float[N,4] z) => (float[N,4] y)"
    " { u = MatMul(x, w) a = Add(u, z) b = Neg(a) m = MatMul(b, w) y = Relu(m) }"
)


@pytest.mark.parametrize(
    ("half", "value", "kept"),
    [("float16", 16376, False), ("float16", 16377, True), ("float16", -16377, True), ("bfloat16", 1e37, False),
     ("bfloat16", 1e38, True), ("float16", 2.0**-14, False), ("float16", 2.0**-15, True), ("float16", 0, False)],
)  # fmt: skip
def test_values_near_the_ends_of_the_type(half, value, kept):
    proto = model(ADD, opset=22, w=normal(4, 4))
    tensor_range = TensorRange(minimum=min(value, 0), maximum=max(value, 0))
    found = decided(proto, half, a=tensor_range)
    assert set(found) == ({"add_1", "neg_2"} if kept else set())
    assert all("'a'" in reason for reason in found.values())


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "CumSum"])
@pytest.mark.parametrize(("terms", "kept"), [(16000, False), (17000, True)])
def test_sums_are_judged_by_their_terms(op, terms, kept):
    axis = "axis" if op == "CumSum" else "axes"
    proto = model(
        f"(float[N,4] x) => (float[N,4] y) {{ a = {op}(x, {axis}) y = Add(a, x) }}",
        axis=np.int64(1),
        axes=np.array([1]),
    )
    found = decided(proto, "float16", a=reaching(1, terms=terms))
    assert ("sum up to" in "".join(found.values())) is kept


def test_a_root_of_a_sum_of_squares():
    proto = model("(float[N,4] x) => (float[N,1] y) { a = ReduceL2(x, axes) y = Relu(a) }", axes=np.array([1]))
    assert decided(proto, "float16", a=reaching(127)) == {}
    assert list(decided(proto, "float16", a=reaching(129))) == ["reducel2_0"]
    assert list(decided(proto, "bfloat16")) == ["reducel2_0"]  # its few digits do not add up


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Reciprocal"])
@pytest.mark.parametrize(("smallest", "kept"), [(1e-4, False), (1e-5, True)])
def test_small_operands_keep_their_digits_back_to_where_they_are_made(op, smallest, kept):
    proto = model(
        f"(float[N,4] x) => (float[N,4] y) {{ m = MatMul(x, w) q = Mul(m, m) s = ReduceSum(q, axes) a = Add(s, e) "
        f"l = {op}(a) y = Mul(l, x) }}",
        w=normal(4, 4), axes=np.array([1]), e=np.float32(1e-4),
    )  # fmt: skip
    found = decided(proto, "float16", a=reaching(1, smallest=smallest))
    assert set(found) == ({"mul_1", "reducesum_2", "add_3", f"{op.lower()}_4"} if kept else set())


def test_a_projection_right_before_a_logarithm():
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { p = Pow(x, two) m = MatMul(p, w) c = Clip(m, low) l = Log(c) "
        "z = MatMul(l, w) y = Relu(z) }",
        two=np.float32(2), w=np.abs(normal(4, 4)), low=np.float32(1e-4),
    )  # fmt: skip
    found = decided(proto, "float16", c=reaching(1, smallest=1e-7))
    assert set(found) == {"pow_0", "matmul_1", "clip_2", "log_3"}
    assert "leads to a Log: 'c' falls to 1e-07" in found["matmul_1"]


@pytest.mark.parametrize(
    ("half", "largest", "kept"), [("float16", 15, False), ("float16", 17, True), ("bfloat16", 3, True)]
)
def test_angles(half, largest, kept):
    proto = model("(float[N,4] x) => (float[N,4] y) { a = Neg(x) s = Sin(a) y = Neg(s) }", opset=22)
    assert ("sin_1" in decided(proto, half, a=reaching(largest))) is kept


class TestPositions:
    DECODE = (
        "(float[N,8,4] x) => (float[N,8,4] y) { d = MatMul(x, w) s = Sigmoid(d) g = Add(s, grid) y = Mul(g, stride) }"
    )

    @pytest.mark.parametrize(
        ("half", "largest", "kept"), [("float16", 250, False), ("float16", 300, True), ("bfloat16", 40, True)]
    )
    def test_a_large_output_is_exact_back_to_the_last_layer(self, half, largest, kept):
        proto = model(self.DECODE, opset=22, w=normal(4, 4), grid=normal(8, 4), stride=np.float32(8))
        found = decided(proto, half, y=reaching(largest))
        assert set(found) == ({"add_2", "mul_3"} if kept else set())

    def test_a_residual_stream_is_no_position(self):
        proto = model(
            "(float[N,8,4] x) => (float[N,8,4] y) { a = MatMul(x, w) b = Add(a, bias) c = Add(b, x) d = MatMul(c, w) "
            "y = Add(d, c) }",
            w=normal(4, 4), bias=normal(4),
        )  # fmt: skip
        assert decided(proto, "float16", y=reaching(5000), c=reaching(5000)) == {}

    def test_a_sampling_grid(self):
        proto = model(
            "(float[N,2,8,8] x, float[N,4,4,2] g) => (float[N,2,4,4] y) { s = Mul(g, two) h = Add(s, one) "
            "r = Relu(x) y = GridSample(r, h) }",
            two=np.float32(2), one=np.float32(1),
        )  # fmt: skip
        found = decided(proto, "float16")
        assert {name for name, reason in found.items() if reason == "positions for GridSample"} == {"mul_0", "add_1"}


def test_what_was_never_seen_is_judged_by_the_fixed_rules():
    proto = model("(float[N,4] x) => (float[N,4] y) { a = Exp(x) y = Neg(a) }")
    loaded = ir.serde.deserialize_model(proto)
    *_, result = run_passes(loaded, [InferTypes(), CastPrecision(FP16, (), TensorRanges(samples=8, tensors={}))])
    assert [decision.precision for decision in result.decisions] == ["float32", "float32"]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Exp"])
@pytest.mark.parametrize(
    ("half", "tensor_range", "kept"),
    [
        ("float16", TensorRange(minimum=-1, maximum=255), False),
        ("float16", TensorRange(minimum=-1, maximum=257), True),
        ("float16", TensorRange(minimum=-10000, maximum=20), False),  # a mask: exp of it is 0 whatever its rounding
        ("bfloat16", TensorRange(minimum=-1, maximum=31), False),
        ("bfloat16", TensorRange(minimum=-1, maximum=33), True),
    ],
)
def test_exponents(op, half, tensor_range, kept):
    proto = model(f"(float[N,4] x) => (float[N,4] y) {{ y = {op}(x) }}", opset=22)
    found = decided(proto, half, x=tensor_range)
    assert list(found) == ([f"{op.lower()}_0"] if kept else [])
    assert all("an exponent would be off by" in reason for reason in found.values())


@pytest.mark.parametrize(("largest", "left", "kept"), [(1000, 100, False), (1000, 1, True), (10, 0.1, False)])
def test_operands_that_cancel(largest, left, kept):
    proto = model(
        "(float[N,4] x, float[N,4] z) => (float[N,4] y) { a = MatMul(x, w) b = MatMul(z, w) y = Sub(a, b) }",
        opset=22, w=normal(4, 4),
    )  # fmt: skip
    found = decided(
        proto, "float16", a=reaching(largest), b=reaching(largest), y=TensorRange(minimum=-left, maximum=left)
    )
    assert list(found) == (["sub_2"] if kept else [])
    assert all("its operands cancel" in reason for reason in found.values())


@pytest.mark.parametrize(("half", "large"), [("float16", 400), ("bfloat16", 60)])
def test_an_exponent_that_was_stored_in_16_bits_is_as_wrong_as_it_will_be(half, large):
    """Its softmax sums in float32 inside anyway; kept, it would only cost two casts and a fused attention."""
    logits = TensorRange(minimum=-large, maximum=large)
    tensor_ranges = {"s": logits, "x": TensorRange(minimum=-4, maximum=4), "y": TensorRange(minimum=0, maximum=1)}
    proto = model("(float[N,4] x) => (float[N,4] y) { s = MatMul(x, w) y = Softmax(s) }", opset=22, w=normal(4, 4))
    assert decided(proto, half, **tensor_ranges) == {}
    kept = decided(proto, half, **{**tensor_ranges, "x": TensorRange(minimum=0, maximum=1e38)})
    assert list(kept) == ["matmul_0", "softmax_1"]
    assert "an exponent would be off by" in kept["softmax_1"]
