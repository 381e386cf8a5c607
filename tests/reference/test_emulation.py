"""16-bit storage shown in float32, against numpy's float16 and ml_dtypes' bfloat16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from models import conv_net, feed_for, model, normal, run, weights_of

from trtpipe.autocast.convert import CastPrecision
from trtpipe.config.formats import FP16
from trtpipe.reference.emulation import EmulateHalf

TYPES = {10: np.float16, 16: ml_dtypes.bfloat16}
ROUND = "(float[N,4] x) => (float[N,4] y) {{ h = Cast<to={code}>(x) {middle} y = Cast<to=1>(o) }}"


def half_graph(code: int, middle: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A graph whose middle computes in 16 bits, from h to o."""
    return model(ROUND.format(code=code, middle=middle), opset=22, **weights)


@pytest.fixture
def emulated(apply):
    return lambda proto: apply(proto, EmulateHalf())[0]


def types_of(proto: onnx.ModelProto) -> set[int]:
    """Element types of everything that is stored between nodes, except where a rounding Cast ends."""
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    rounded = {node.output[0] for node in proto.graph.node if node.op_type == "Cast"}
    return {v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output) if v.name not in rounded}


@pytest.mark.parametrize("code", TYPES)
def test_every_result_is_rounded_as_the_type_rounds(emulated, code):
    proto = half_graph(code, "a = Mul(h, h) b = Add(a, h) o = Sub(b, c)", c=np.asarray(0.3, TYPES[code]))
    x = normal(64, 4)

    def rounded(values):
        return values.astype(TYPES[code]).astype(np.float32)

    h = rounded(x)
    expected = rounded(rounded(rounded(h * h) + h) - rounded(np.float32(0.3)))
    found = run(emulated(proto), {"x": x})["y"]
    np.testing.assert_array_equal(found, expected)
    assert (found != h * h + h - np.float32(0.3)).mean() > 0.5


@pytest.mark.parametrize("code", TYPES)
def test_ties_and_subnormals(emulated, code):
    kind = ml_dtypes.finfo(TYPES[code])
    one, tiny = float(np.float32(kind.eps)), float(kind.smallest_subnormal)
    x = np.array(
        [[1 + one / 2, 1 + 1.5 * one, tiny, tiny * 1.5], [tiny / 2, -tiny * 2.5, 0.0, -1 - one / 2]], np.float32
    )
    proto = half_graph(code, "o = Identity(h)")
    np.testing.assert_array_equal(run(emulated(proto), {"x": x})["y"], x.astype(TYPES[code]).astype(np.float32))


def test_overflow_becomes_infinity_in_float16_only(emulated):
    x = np.array([[300, -300, 255, 1]], np.float32)
    squares = {code: run(emulated(half_graph(code, "o = Mul(h, h)")), {"x": x})["y"][0] for code in TYPES}
    assert squares[10].tolist() == [np.inf, np.inf, 65024, 1]
    assert np.isfinite(squares[16]).all()


def test_overflow_on_the_way_spoils_the_end(emulated):
    proto = half_graph(10, "a = Mul(h, c) o = Div(a, c)", c=np.float16(6e4))
    found = run(emulated(proto), {"x": np.array([[1, 2, -2, 0]], np.float32)})["y"][0]
    assert found.tolist() == [1, np.inf, -np.inf, 0]


def test_the_integer_path_is_untouched(emulated):
    proto = model(
        "(float[N,4] x, int64[M] i) => (float[N,4] y, int64[M] j) { k = Mul(i, i) j = Add(k, i) h = Cast<to=10>(x) "
        "o = Relu(h) s = Shape(o) r = Reshape(o, s) y = Cast<to=1>(r) }"
    )
    lowered = emulated(proto)
    arithmetic = [list(node.input) for node in lowered.graph.node if node.op_type in ("Mul", "Add")]
    assert arithmetic == [["i", "i"], ["k", "i"]]
    i = np.array([3, 2**40])
    assert run(lowered, {"x": normal(2, 4), "i": i})["j"].tolist() == [12, 2**80 % 2**64 + 2**40]


def test_constants_keep_their_16_bit_values(emulated):
    c = normal(4).astype(ml_dtypes.bfloat16)
    widened = weights_of(emulated(half_graph(16, "o = Add(h, c)", c=c)))["c"]
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened, c.astype(np.float32))


@pytest.mark.parametrize("code", TYPES)
def test_nothing_is_stored_in_16_bits_any_more(emulated, code):
    proto = half_graph(code, "a = MatMul(h, w) o = Relu(a)", w=normal(4, 4).astype(TYPES[code]))
    assert types_of(emulated(proto)) == {onnx.TensorProto.FLOAT}


def test_nodes_whose_type_is_an_attribute(emulated):
    proto = half_graph(
        10, "k = Constant<value=float16[1] {15360}>() z = ConstantOfShape<value=float16[1] {16384}>(s) a = Add(h, k) "
        "b = Mul(a, z) o = CastLike(b, h)", s=np.array([4])
    )  # fmt: skip
    x = np.array([[1, 2.5, -3, 0]], np.float32)
    assert run(emulated(proto), {"x": x})["y"].tolist() == [[4, 7, -4, 2]]


def test_bodies_are_emulated_too(emulated):
    proto = model(
        "(float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = t () => (float[2] a) "
        "{ h = Cast<to=10>(x) m = Mul(h, h) a = Cast<to=1>(m) }, else_branch = e () => (float[2] b) { b = Neg(x) }> }"
    )
    x = np.array([300, 2], np.float32)
    assert run(emulated(proto), {"x": x, "c": np.array(True)})["y"].tolist() == [np.inf, 4]
    assert run(emulated(proto), {"x": x, "c": np.array(False)})["y"].tolist() == [-300, -2]


def test_a_lowered_net_gives_what_its_own_float16_arithmetic_gives(apply, emulated):
    """onnxruntime's float16 kernels on the CPU round between nodes as well, so both ways must agree closely."""
    lowered, _ = apply(conv_net(), CastPrecision(FP16))
    feed = feed_for(conv_net())
    np.testing.assert_allclose(run(emulated(lowered), feed)["y"], run(lowered, feed)["y"], atol=0.02)


def test_a_float32_graph_stays_as_it_is(emulated):
    proto = conv_net()
    names = [node.name for node in proto.graph.node]
    assert [node.name for node in emulated(proto).graph.node] == names


def test_names_that_are_taken_already(emulated):
    proto = half_graph(10, "o_rounded = Neg(h) o_wide = Neg(o_rounded) o = Add(o_wide, o_rounded)")
    assert not run(emulated(proto), {"x": normal(2, 4)})["y"].any()


@pytest.mark.parametrize("code", TYPES)
def test_inputs_and_outputs_of_16_bits_keep_their_types(emulated, code):
    """The model came in 16 bits; what lies between its ends is rounded in float32 all the same."""
    word = {10: "float16", 16: "bfloat16"}[code]
    proto = model(
        f"({word}[N,4] x) => ({word}[N,4] y, {word}[N,4] s) {{ s = Mul(x, x) a = Add(s, c) y = Sub(a, x) }}",
        opset=22, c=np.asarray(0.3, TYPES[code]),
    )  # fmt: skip
    found = emulated(proto)
    assert [value.type.tensor_type.elem_type for value in (*found.graph.input, *found.graph.output)] == [code] * 3
    assert {node.op_type for node in found.graph.node} == {"Cast", "Mul", "Add", "Sub"}
    if code == 10:
        x = normal(64, 4).astype(np.float16)
        wanted = run(proto, {"x": x})
        for name, values in run(found, {"x": x}).items():
            assert values.dtype == np.float16
            np.testing.assert_allclose(values, wanted[name], rtol=2e-3, atol=2e-3)
