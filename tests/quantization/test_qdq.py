"""Quantization, checked against numpy's own arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from models import (
    CASES,
    both_sides,
    branches,
    conv_net,
    depthwise,
    faint_channels,
    feed_for,
    looped,
    model,
    normal,
    residual,
    run,
    shared_weight,
    transposed,
    weights_of,
    with_outputs,
)
from numpy.lib.stride_tricks import sliding_window_view
from planning import Quantize

from trtpipe.config.formats import FP16, INT8, find_format
from trtpipe.errors import StageError
from trtpipe.quantization.qdq import quantize_weight

FP8 = ml_dtypes.float8_e4m3fn


def gemm(transposed: bool) -> onnx.ModelProto:
    weight = normal(5, 4) if transposed else normal(4, 5)
    spread = np.geomspace(1e-3, 1e3, 5, dtype=np.float32)
    return model(
        f"(float[N,4] x) => (float[N,5] y) {{ y = Gemm<transB={int(transposed)}>(x, w, b) }}",
        w=weight * (spread[:, np.newaxis] if transposed else spread), b=normal(5),
    )  # fmt: skip


#: model -> its weights, and the axis along which each has its output channels
WEIGHTS = {
    "conv_net": (conv_net(), {"w": 0, "v": 0}),
    "depthwise": (depthwise(), {"w": 0}),
    "transposed": (transposed(), {"w": 1}),
    "gemm": (gemm(transposed=False), {"w": 1}),
    "gemm_transposed": (gemm(transposed=True), {"w": 0}),
    "both_sides": (both_sides(), {"w": 1, "v": 0}),
    "faint_channels": (faint_channels(), {"w": 0}),
}


def ranges(proto: onnx.ModelProto, feed) -> dict[str, float]:
    """Largest magnitude of every float tensor on ``feed``, found by onnxruntime."""
    inner = [name for node in proto.graph.node for name in node.output]
    floats = set(onnx_floats(proto))
    values = run(with_outputs(proto, [name for name in inner if name in floats]), feed)
    return {name: float(np.abs(value).max()) for name, value in {**values, **feed}.items()}


def onnx_floats(proto: onnx.ModelProto) -> list[str]:
    graph = onnx.shape_inference.infer_shapes(proto).graph
    values = (*graph.value_info, *graph.output)
    return [v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]


def nodes(proto: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == op]


def weight_quantizers(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """DequantizeLinear nodes that read a constant."""
    constant = weights_of(proto)
    return [node for node in nodes(proto, "DequantizeLinear") if node.input[0] in constant]


def axis_of(node: onnx.NodeProto) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)


def fake_int8(x: np.ndarray, amax: float) -> np.ndarray:
    step = np.float32(amax) / np.float32(127)
    return (np.clip(np.rint(x / step), -128, 127) * step).astype(np.float32)


def fake_fp8(x: np.ndarray, amax: float) -> np.ndarray:
    step = np.float32(amax) / np.float32(448)
    return np.clip(x / step, -448, 448).astype(FP8).astype(np.float32) * step


def fake_weight(w: np.ndarray, axis: int, precision: str) -> np.ndarray:
    if precision == "fp8":
        return fake_fp8(w, np.abs(w).max())
    channels = np.moveaxis(w, axis, 0)
    return np.moveaxis(np.stack([fake_int8(channel, np.abs(channel).max()) for channel in channels]), 0, axis)


def convolve(x: np.ndarray, w: np.ndarray, groups: int = 1, pad: int = 0) -> np.ndarray:
    """Stride 1, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, w.shape[2:], axis=(2, 3))
    parts = zip(np.split(windows, groups, axis=1), np.split(w.astype(np.float64), groups), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", part, filters) for part, filters in parts], axis=1)


def spread_out(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """A transposed convolution whose stride is its kernel size 2."""
    blocks = np.einsum("nchw,coij->nohiwj", x.astype(np.float64), w.astype(np.float64))
    n, o, h, _, width, _ = blocks.shape
    return blocks.reshape(n, o, 2 * h, 2 * width)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_within_half_a_step_of_the_originals(apply, name, precision):
    proto, axes = WEIGHTS[name]
    lowered, _ = apply(proto, Quantize(find_format(precision), dict.fromkeys(onnx_floats(proto), 1.0) | {"x": 1.0}))
    before, after = weights_of(proto), weights_of(lowered)
    found = weight_quantizers(lowered)
    assert len(found) == len(axes)
    for node, (weight, axis) in zip(found, axes.items(), strict=True):
        q, scale, zero = (after[name] for name in node.input)
        w = before[weight]
        assert weight not in after
        assert not zero.any()
        if precision == "int8":
            assert (q.dtype, scale.shape, zero.shape) == (np.int8, (w.shape[axis],), (w.shape[axis],))
            assert axis_of(node) == axis
            channels = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
            integers = np.moveaxis(q, axis, 0).reshape(w.shape[axis], -1)
            error = np.abs(integers * scale[:, np.newaxis].astype(np.float64) - channels).max(axis=1)
            largest = np.abs(channels).max(axis=1)
            ordinary = largest > 1e-36
            np.testing.assert_allclose(scale[ordinary], largest[ordinary] / 127, rtol=1e-6)
            assert (error <= scale * 0.500001).all()
            assert np.abs(integers).max() == 127
        else:
            assert (q.dtype, scale.shape, axis_of(node)) == (FP8, (), None)
            np.testing.assert_allclose(scale, np.abs(w).max() / 448, rtol=1e-6)
            steps = w.astype(np.float64) / scale
            error = np.abs(q.astype(np.float64) - steps)
            assert (error <= np.maximum(np.abs(steps) * 2.0**-4, 2.0**-10) * 1.000001).all()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_scales_of_faint_channels_are_neither_zero_nor_subnormal(apply, precision):
    lowered, _ = apply(faint_channels(), Quantize(find_format(precision), {"x": 1e-44}))
    scales = [weights_of(lowered)[node.input[1]] for node in nodes(lowered, "DequantizeLinear")]
    assert all((scale >= np.finfo(np.float32).tiny).all() for scale in scales)
    zero_channel = weights_of(lowered)[weight_quantizers(lowered)[0].input[0]][0]
    assert not zero_channel.astype(np.float32).any()


REFERENCES = {
    "conv": (
        model("(float[2,3,6,6] x) => (float[2,4,6,6] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", w=normal(4, 3, 3, 3)),
        0,
        lambda x, w: convolve(x, w, pad=1),
    ),
    "depthwise": (depthwise(), 0, lambda x, w: convolve(x, w, groups=6)),
    "transposed": (transposed(), 1, spread_out),
    "gemm": (gemm(transposed=False), 1, lambda x, w: x.astype(np.float64) @ w + normal(5)),
    "gemm_transposed": (gemm(transposed=True), 0, lambda x, w: x.astype(np.float64) @ w.T + normal(5)),
    "matmul_right": (
        model("(float[2,6,4] x) => (float[2,6,5] y) { y = MatMul(x, w) }", w=normal(4, 5)),
        1,
        lambda x, w: x.astype(np.float64) @ w,
    ),
    "matmul_left": (
        model("(float[2,6,4] x) => (float[2,3,4] y) { y = MatMul(w, x) }", w=normal(3, 6)),
        0,
        lambda x, w: w.astype(np.float64) @ x,
    ),
}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", REFERENCES)
def test_onnxruntime_computes_what_numpy_computes(apply, name, precision):
    proto, axis, reference = REFERENCES[name]
    x = feed_for(proto)["x"]
    amax = float(np.abs(x).max()) * 0.7  # so that some values saturate
    lowered, [decision] = apply(proto, Quantize(find_format(precision), {"x": amax}))
    assert decision.precision == precision
    fake = fake_int8 if precision == "int8" else fake_fp8
    expected = reference(fake(x, amax), fake_weight(weights_of(proto)["w"], axis, precision))
    found = run(lowered, {"x": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert np.abs(found - run(proto, {"x": x})["y"]).max() > 1e-3 * np.abs(found).max()  # it did quantize


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "listed_initializers"])
def test_every_case_stays_a_valid_model_with_the_same_interface_and_about_the_same_result(apply, name, precision):
    proto = CASES[name]()
    feed = feed_for(proto)
    lowered, decisions = apply(proto, Quantize(find_format(precision), ranges(proto, feed)))
    assert [(v.name, v.type) for v in lowered.graph.input] == [(v.name, v.type) for v in proto.graph.input]
    assert [(v.name, v.type) for v in lowered.graph.output] == [(v.name, v.type) for v in proto.graph.output]
    assert all(decision.reason for decision in decisions)
    found, expected = run(lowered, feed), run(proto, feed)
    for output in expected:
        scale = np.abs(expected[output]).max()
        assert np.abs(found[output] - expected[output]).mean() <= 0.1 * scale


def test_one_pair_a_tensor_and_the_others_still_read_the_original(apply):
    proto = residual()
    lowered, _ = apply(proto, Quantize(INT8, {"r": 3.0}))
    [quantize] = nodes(lowered, "QuantizeLinear")
    assert quantize.input[0] == "r"
    [dequantize] = [node for node in nodes(lowered, "DequantizeLinear") if node.input[0] == quantize.output[0]]
    assert [node.input[0] for node in nodes(lowered, "Conv")] == [dequantize.output[0]] * 2
    assert [list(node.input) for node in nodes(lowered, "Add")] == [["a", "b"], ["s", "r"]]
    assert list(quantize.input[1:]) == list(dequantize.input[1:])  # one scale, one zero point


def test_a_weight_read_along_two_axes_is_quantized_along_both(apply):
    proto = shared_weight()
    w = weights_of(proto)["w"]
    lowered, _ = apply(proto, Quantize(INT8, {"x": 1.0}))
    after = weights_of(lowered)
    columns, rows = weight_quantizers(lowered)
    assert [axis_of(columns), axis_of(rows)] == [1, 0]
    np.testing.assert_allclose(after[columns.input[1]], np.abs(w).max(axis=0) / 127, rtol=1e-6)
    np.testing.assert_allclose(after[rows.input[1]], np.abs(w).max(axis=1) / 127, rtol=1e-6)
    assert len(nodes(lowered, "QuantizeLinear")) == 1


def test_a_weight_that_somebody_else_reads_stays(apply):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Add(a, w) c = MatMul(b, w) y = Relu(c) }",
        w=normal(4, 4),
    )
    lowered, _ = apply(proto, Quantize(INT8, {"x": 1.0, "b": 1.0}))
    np.testing.assert_array_equal(weights_of(lowered)["w"], normal(4, 4))
    assert len(weight_quantizers(lowered)) == 1
    assert nodes(lowered, "Add")[0].input[1] == "w"


def test_graph_outputs_keep_their_exact_values(apply):
    proto = model("(float[N,4] x) => (float[N,4] r, float[N,4] y) { r = Relu(x) y = MatMul(r, w) }", w=normal(4, 4))
    lowered, _ = apply(proto, Quantize(INT8, {"r": 1.0}))
    x = normal(3, 4)
    np.testing.assert_array_equal(run(lowered, {"x": x})["r"], np.maximum(x, 0))


def test_branches_hold_their_own_pairs_and_constants(apply):
    lowered, decisions = apply(branches(), Quantize(INT8, {"r": 1.0}))
    assert {each.op: each.precision for each in decisions}["MatMul"] == "int8"
    assert not nodes(lowered, "QuantizeLinear")
    (branch,) = nodes(lowered, "If")
    then = next(attribute.g for attribute in branch.attribute if attribute.name == "then_branch")
    assert [node.op_type for node in then.node][:2] == ["QuantizeLinear", "DequantizeLinear"]
    assert len(then.initializer) == 5  # scale and zero point of the activation; weight, its scales and zero points


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_branch_computes_in_8_bits_and_the_other_as_before(apply, precision):
    proto, weights = branches(), weights_of(branches())
    x = normal(2, 4)
    r = np.maximum(x, 0)
    lowered, _ = apply(proto, Quantize(find_format(precision), {"r": float(r.max())}))
    fake = fake_int8 if precision == "int8" else fake_fp8
    h = fake(r, r.max()).astype(np.float64) @ fake_weight(weights["w"], 1, precision)
    taken, other = ({"x": x, "c": np.asarray(c)} for c in (True, False))
    np.testing.assert_allclose(run(lowered, taken)["y"], 2 * np.maximum(h, 0), rtol=1e-5, atol=1e-6)
    assert not np.allclose(run(lowered, taken)["y"], run(proto, taken)["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run(lowered, other)["y"], run(proto, other)["y"])


def test_two_branches_share_no_pair_and_no_constant(apply):
    proto = model(
        "(float[2,4] x, bool c) => (float[2,4] y) { r = Relu(x) "
        "y = If(c) <then_branch = t () => (float[2,4] a) { a = MatMul(r, w) }, "
        "else_branch = e () => (float[2,4] b) { k = MatMul(r, w) b = Neg(k) }> }",
        w=normal(4, 4),
    )  # fmt: skip
    x = normal(2, 4)
    r = np.maximum(x, 0)
    lowered, decisions = apply(proto, Quantize(INT8, {"r": float(r.max())}))
    assert [each.precision for each in decisions if each.op == "MatMul"] == ["int8", "int8"]
    bodies = [attribute.g for attribute in nodes(lowered, "If")[0].attribute]
    names = [{tensor.name for tensor in body.initializer} for body in bodies]
    assert [len(each) for each in names] == [5, 5]
    assert not names[0] & names[1]
    assert not lowered.graph.initializer
    product = fake_int8(r, r.max()).astype(np.float64) @ fake_weight(weights_of(proto)["w"], 1, "int8")
    for taken, sign in ((True, 1), (False, -1)):
        found = run(lowered, {"x": x, "c": np.asarray(taken)})["y"]
        np.testing.assert_allclose(found, sign * product, rtol=1e-5, atol=1e-6)


def test_the_body_of_a_loop_holds_its_own_pair_and_constants(apply):
    proto, x = looped(), normal(1, 4)
    lowered, decisions = apply(proto, Quantize(INT8, {"state": 2.0}))
    assert {each.op: each.precision for each in decisions}["MatMul"] == "int8"
    body = next(a.g for a in lowered.graph.node[0].attribute if a.name == "body")
    assert len(body.initializer) == 5
    weight, state = fake_weight(weights_of(proto)["w"], 1, "int8"), x
    for _ in range(3):
        state = np.tanh(fake_int8(state, 2.0).astype(np.float64) @ weight).astype(np.float32)
    np.testing.assert_allclose(run(lowered, {"x": x})["y"], state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("amax", "reason"),
    [
        ({}, "no range for 'x': no calibration data reached it"),
        ({"x": 0.0}, "its input 'x' was zero in all samples"),
    ],
)
def test_a_tensor_without_a_range_stays_in_float32(apply, amax, reason):
    proto = gemm(transposed=True)
    lowered, [decision] = apply(proto, Quantize(INT8, amax))
    assert (decision.precision, decision.reason) == ("float32", reason)
    assert [node.op_type for node in lowered.graph.node] == ["Gemm"]
    np.testing.assert_array_equal(weights_of(lowered)["w"], weights_of(proto)["w"])


def test_why_a_tensor_has_no_range_is_told(apply):
    _, [decision] = apply(gemm(transposed=True), Quantize(INT8, {}, reasons={"x": "'x' reaches 1e+30"}))
    assert (decision.precision, decision.reason) == ("float32", "'x' reaches 1e+30")


def test_names_that_are_taken_already(apply):
    proto = model(
        "(float[N,4] x) => (float[N,4] y) { x_quantized = Neg(x) x_dequantized = Neg(x_quantized) "
        "a = MatMul(x_dequantized, w) b = MatMul(x, w) c = Mul(a, x_scale) y = Add(b, c) }",
        w=normal(4, 4), x_scale=np.float32(3), w_axis1_scale=np.float32(5),
    )  # fmt: skip
    lowered, _ = apply(proto, Quantize(INT8, {"x": 4.0, "x_dequantized": 4.0}))
    x = normal(3, 4)
    exact = run(proto, {"x": x})["y"]
    np.testing.assert_allclose(run(lowered, {"x": x})["y"], exact, atol=0.1 * np.abs(exact).max())


def test_lowering_twice_changes_nothing_more(apply):
    proto, amax = conv_net(), {"x": 3.0, "f": 2.0}
    once, _ = apply(proto, Quantize(INT8, amax))
    twice, decisions = apply(once, Quantize(INT8, amax))
    assert twice.SerializeToString() == once.SerializeToString()
    assert {each.reason for each in decisions if each.op in ("Conv", "Gemm")} == {
        "the model itself quantizes what it reads"
    }


def test_bytes_do_not_depend_on_the_order_of_the_ranges(apply):
    forwards, backwards = (dict.fromkeys(names, 1.0) for names in (("x", "f", "r"), ("r", "f", "x")))
    first, _ = apply(conv_net(), Quantize(INT8, forwards))
    second, _ = apply(conv_net(), Quantize(INT8, backwards))
    assert first.SerializeToString() == second.SerializeToString()


@pytest.mark.parametrize(("precision", "opset"), [("int8", 12), ("fp8", 18)])
def test_opsets_without_such_pairs_are_refused(apply, precision, opset):
    proto = model("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", opset=opset, w=normal(4, 4))
    with pytest.raises(StageError, match=f"opset {opset} .* {precision} needs {opset + 1}"):
        apply(proto, Quantize(find_format(precision), {"x": 1.0}))
    nothing = model("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", opset=opset)
    apply(nothing, Quantize(find_format(precision), {}))  # needs no pairs
    newer = model("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", opset=opset + 1, w=normal(4, 4))
    apply(newer, Quantize(find_format(precision), {"x": 1.0}))


def test_the_file_shrinks_to_about_a_quarter(apply):
    proto = model("(float[N,256] x) => (float[N,256] y) { y = MatMul(x, w) }", w=normal(256, 256))
    lowered, _ = apply(proto, Quantize(INT8, {"x": 1.0}))
    assert lowered.ByteSize() < 0.27 * proto.ByteSize()


def test_weights_of_one_scale_in_all():
    w = normal(3, 4) * np.float32(10)
    q, scale = quantize_weight(w, None, INT8)
    assert scale.shape == ()
    np.testing.assert_allclose(scale, np.abs(w).max() / 127, rtol=1e-6)
    assert np.abs(q * scale - w).max() <= 0.500001 * scale


class TestScalesInFloat16:
    """TensorRT holds scales in the type of the tensor: they are rounded before anything is quantized with them."""

    SPREAD = np.float32([1, 7e-3, 1e-3, 1e-6, 0, 3e5])  # the largest magnitude of every channel

    def scales(self, lowered: onnx.ModelProto) -> np.ndarray:
        found = [array for name, array in weights_of(lowered).items() if name.endswith("_scale")]
        return np.concatenate([array.reshape(-1) for array in found])

    def test_every_scale_is_a_normal_float16(self, apply):
        weight = normal(4, 6)
        weight *= self.SPREAD / np.abs(weight).max(axis=0)
        proto = model("(float[N,4] x) => (float[N,6] y) { y = MatMul(x, w) }", w=weight)
        for amax in (1e-2, 3.0, 1e30):
            found = self.scales(apply(proto, Quantize(INT8, {"x": amax}, scales=FP16))[0])
            np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))
            assert found.min() >= 2.0**-14
            assert np.isfinite(found).all()

    def test_an_activation_whose_scale_would_lose_digits_stays_high(self, apply):
        proto = model("(float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", w=normal(4, 4))
        lowered, [decision] = apply(proto, Quantize(INT8, {"x": 1e-9}, scales=FP16))
        assert [node.op_type for node in lowered.graph.node] == ["MatMul"]
        assert "scale would lose digits" in decision.reason

    def test_weights_are_quantized_with_the_rounded_scale(self, apply):
        weight = normal(64, 6)
        proto = model("(float[N,64] x) => (float[N,6] y) { y = MatMul(x, w) }", w=weight)
        lowered, _ = apply(proto, Quantize(INT8, {"x": 3.0}, scales=FP16))
        found = weights_of(lowered)
        scale = found["w_axis1_scale"]
        exact = np.abs(weight).max(axis=0) / np.float32(127)
        np.testing.assert_array_equal(scale, exact.astype(np.float16))
        np.testing.assert_array_equal(found["w_axis1_quantized"], np.clip(np.rint(weight / scale), -127, 127))

    def test_a_faint_channel_errs_by_no_more_than_half_the_least_scale(self, apply):
        weight = normal(8, 2) * np.float32([1, 1e-5])
        proto = model("(float[N,8] x) => (float[N,2] y) { y = MatMul(x, w) }", w=weight)
        found = weights_of(apply(proto, Quantize(INT8, {"x": 3.0}, scales=FP16))[0])
        error = found["w_axis1_quantized"] * found["w_axis1_scale"] - weight
        assert np.abs(error[:, 1]).max() <= 2.0**-15


def test_tensors_between_which_values_only_move_get_the_larger_scale(apply):
    proto = model(
        "(float[1,4,4,4] x) => (float[1,4,2,2] y, float[1,4,4,4] z) { m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) "
        "y = Conv(m, w) z = Conv(x, w) }",
        w=normal(4, 4, 1, 1),
    )  # fmt: skip
    found = weights_of(apply(proto, Quantize(INT8, {"x": 2.0, "m": 3.0}))[0])
    assert found["x_scale"] == found["m_scale"] == np.float32(3) / np.float32(127)


def test_the_skip_input_of_a_residual_add_is_rounded_and_the_other_is_not(apply):
    proto = model(
        "(float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w) s = Add(a, x) r = Relu(s) y = Conv(r, w) }",
        w=normal(4, 4, 1, 1),
    )  # fmt: skip
    lowered, decisions = apply(proto, Quantize(INT8, {"x": 3.0, "r": 9.0}))
    [add] = nodes(lowered, "Add")
    assert list(add.input) == ["a", "x_dequantized"]
    assert [each.op for each in decisions if each.precision == "int8"] == ["Conv", "Add", "Conv"]
