"""Models that onnxruntime's quantizer, TensorRT's domain or 16 bits left their mark on, as export takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, run, save
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from trtpipe.config.formats import BF16, FP16
from trtpipe.config.stage_settings import ExportStageSettings
from trtpipe.errors import StageError
from trtpipe.exporter.onnx_import import copy_checked
from trtpipe.exporter.precisions import settle_half_formats, settle_quantizers
from trtpipe.exporter.request import OnnxRequest
from trtpipe.preflight import seal_model

if TYPE_CHECKING:
    from pathlib import Path

X = normal(2, 3, 8, 8)


def network(*, last: str = "") -> onnx.ModelProto:
    """Convolution, Relu, pool, product."""
    return model(
        "(float[2,3,8,8] x) => (float[2,4] y) { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) p = GlobalAveragePool(r) "
        f"f = Flatten(p) y = Gemm<transB=1>(f, g, d) }} {last}",
        opset=17, ir_version=8,
        w=normal(6, 3, 3, 3, seed=1), b=normal(6, seed=2), g=normal(4, 6, seed=3), d=normal(4, seed=4),
    )  # fmt: skip


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = [{"x": normal(2, 3, 8, 8, seed=seed)} for seed in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def quantized(folder: Path, **how: Any) -> onnx.ModelProto:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(network(), folder / "float.onnx")
    if how.pop("dynamic", False):
        quantize_dynamic(folder / "float.onnx", folder / "q.onnx", **how)
    else:
        quantize_static(folder / "float.onnx", folder / "q.onnx", Reader(), **how)
    return onnx.load(folder / "q.onnx")


SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
INT8 = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
UINT8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
FOREIGN: dict[str, dict[str, Any]] = {
    "unsigned": UINT8,
    "with zero points": INT8,
    "QOperator": {"quant_format": QuantFormat.QOperator, **UINT8},
    "QOperator, signed": {"quant_format": QuantFormat.QOperator, **INT8},
    "of channels": {**UINT8, "weight_type": QuantType.QInt8, "per_channel": True},
    "dynamic": {"dynamic": True, "weight_type": QuantType.QInt8},
    "dynamic, unsigned": {"dynamic": True, "weight_type": QuantType.QUInt8},
}


def settled(proto: onnx.ModelProto, *, requantize: bool) -> tuple[onnx.ModelProto, list[str]]:
    notes: list[str] = []
    loaded = settle_quantizers(ir.serde.deserialize_model(proto), notes, requantize=requantize)
    return ir.serde.serialize_model(loaded), notes


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def snr(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()))


@pytest.mark.parametrize("per_channel", [False, True])
def test_symmetric_pairs_stay_and_biases_are_folded(tmp_path: Path, per_channel: bool) -> None:
    proto = quantized(tmp_path, **INT8, per_channel=per_channel, extra_options=SYMMETRIC)
    result, notes = settled(proto, requantize=False)
    assert len(notes) == 1
    biases = [tensor for tensor in result.graph.initializer if tensor.data_type == TensorProto.INT32]
    assert not biases
    assert operators(result).count("QuantizeLinear") == operators(proto).count("QuantizeLinear")
    np.testing.assert_array_equal(run(result, {"x": X})["y"], run(proto, {"x": X})["y"])


def test_symmetric_qoperators_become_pairs(tmp_path: Path) -> None:
    proto = quantized(tmp_path, quant_format=QuantFormat.QOperator, **INT8, extra_options=SYMMETRIC)
    result, _ = settled(proto, requantize=False)
    assert not [op for op in operators(result) if op.startswith("QLinear") or op == "QGemm"]
    gap = np.abs(run(result, {"x": X})["y"] - run(proto, {"x": X})["y"])
    step = max(abs(run(proto, {"x": X})["y"]).max() / 127, 1e-6)
    assert gap.max() <= 1.01 * step  # one step, where a tie is rounded the other way


MICROSOFT = {  # operators of onnxruntime's, on floats around a pair: what they compute on integers, s = 0.05
    "QLinearAdd": "c = QLinearAdd(a, s, z, b, s, z, t, z) y = DequantizeLinear(c, t, z)",
    "QLinearMul": "c = QLinearMul(a, s, z, b, s, z, t, z) y = DequantizeLinear(c, t, z)",
}


@pytest.mark.parametrize("name", MICROSOFT)
def test_operators_of_onnxruntimes_pass_the_front_door(name: str, tmp_path: Path) -> None:
    """They are written out before anything that engines do not have is refused."""
    proto = model(
        "(float[2,8] x, float[2,8] v) => (float[2,8] y) "
        f"{{ a = QuantizeLinear(x, s, z) b = QuantizeLinear(v, s, z) {MICROSOFT[name]} }}",
        opset=17, s=np.float32(0.05), t=np.float32(0.1), z=np.int8(0),
    )  # fmt: skip
    [node] = [node for node in proto.graph.node if node.op_type == name]
    node.domain = "com.microsoft"
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    (tmp_path / "sealed").mkdir()
    source = save(proto, tmp_path / "given.onnx")
    request = OnnxRequest(
        source=str(seal_model(source, tmp_path / "sealed")), workdir=str(tmp_path), label="given.onnx",
        settings=ExportStageSettings(),
    )  # fmt: skip
    copy_checked(request, lambda *_: None)
    result, feed = onnx.load(tmp_path / "model.onnx"), {"x": normal(2, 8), "v": normal(2, 8, seed=1)}
    assert not [node for node in result.graph.node if node.domain]
    assert np.abs(run(result, feed)["y"] - run(proto, feed)["y"]).max() <= 0.1001  # a step, where a tie falls otherwise


def test_requantizing_is_advised_only_where_it_helps() -> None:
    proto = model("(float[2,32] x) => (float[2,4] y) { y = MatMulNBits(x, w, s) }", w=normal(4, 1, 16), s=normal(4))
    proto.graph.node[0].domain = "com.microsoft"
    with pytest.raises(StageError, match="MatMulNBits") as caught:
        settled(proto, requantize=False)
    assert "--requantize" not in caught.value.remedy


@pytest.mark.parametrize("name", FOREIGN)
def test_other_quantizers_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="quantized") as caught:
        settled(quantized(tmp_path, **FOREIGN[name]), requantize=False)
    assert caught.value.exit_code == 5
    assert "--requantize" in caught.value.remedy


@pytest.mark.parametrize("name", [*FOREIGN, "symmetric"])
def test_taken_out_what_is_left_computes_in_floats(name: str, tmp_path: Path) -> None:
    proto = quantized(tmp_path, **FOREIGN.get(name, {**INT8, "extra_options": SYMMETRIC}))
    result, notes = settled(proto, requantize=True)
    assert any("taken out" in note for note in notes)
    assert not [op for op in operators(result) if "uant" in op or "Integer" in op or op.startswith("Q")]
    assert {tensor.data_type for tensor in result.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    onnx.checker.check_model(result, full_check=True)
    wanted = run(network(), {"x": X})["y"]
    stripped, before = (snr(run(each, {"x": X})["y"], wanted) for each in (result, proto))
    assert stripped > before  # the weights alone are rounded now
    assert stripped > 35


def test_a_relu_that_its_tool_left_to_the_quantizer_stays(tmp_path: Path) -> None:
    proto = quantized(tmp_path, **UINT8)
    assert "Relu" not in operators(proto)
    result, _ = settled(proto, requantize=True)
    assert "Clip" in operators(result)


def test_a_model_without_quantizers_stays_as_it_is() -> None:
    proto = network()
    result, notes = settled(proto, requantize=False)
    assert (operators(result), notes) == (operators(proto), [])
    assert "nothing" in settled(proto, requantize=True)[1][0]


def test_bytes_around_128_are_signed_bytes() -> None:
    pair = {"s": np.asarray(0.05, np.float32), "z": np.asarray(128, np.uint8)}
    weight = np.random.default_rng(0).integers(0, 256, [8, 4]).astype(np.uint8)
    proto = model(
        "(float[2,8] x) => (float[2,4] y) { q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) "
        "b = DequantizeLinear(w, s, z) y = MatMul(a, b) }",
        opset=17, ir_version=8, w=weight, **pair,
    )  # fmt: skip
    result, _ = settled(proto, requantize=False)
    stored = {tensor.data_type for tensor in result.graph.initializer}
    assert stored == {TensorProto.FLOAT, TensorProto.INT8}
    feed = {"x": normal(2, 8) * 9}
    np.testing.assert_array_equal(run(result, feed)["y"], run(proto, feed)["y"])


@pytest.mark.parametrize(
    "text",
    [
        "y = DequantizeLinear(x, s, z)",
        "y = DequantizeLinear(x, s)",
        "y = DequantizeLinear<axis=3>(x, c, v)",
        "y = DequantizeLinear<axis=-1>(x, c, v)",
        "t = Transpose<perm=[0,3,1,2]>(x) y = DequantizeLinear(t, s, z)",
    ],
)
@pytest.mark.parametrize("requantize", [False, True])
def test_bytes_that_an_input_brings_are_scaled_in_floats(text: str, requantize: bool) -> None:
    proto = model(
        f"(uint8[1,4,5,3] x) => (float[A,B,C,D] y) {{ {text} }}", opset=13, s=np.float32(1 / 255), z=np.uint8(7),
        c=np.array([0.1, 0.2, 0.3], np.float32), v=np.array([128, 0, 255], np.uint8),
    )  # fmt: skip
    result, notes = settled(proto, requantize=requantize)
    assert {node.op_type for node in result.graph.node} <= {"Cast", "Sub", "Mul", "Transpose"}
    assert any("scaled in floats" in note for note in notes)
    feed = {"x": np.random.default_rng(0).integers(0, 256, [1, 4, 5, 3]).astype(np.uint8)}
    np.testing.assert_array_equal(run(result, feed)["y"], run(proto, feed)["y"])


def test_bytes_that_a_quantizer_makes_are_quantized() -> None:
    proto = model(
        "(float[2,3] x) => (float[2,3] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        s=np.float32(0.1), z=np.uint8(7),
    )  # fmt: skip
    with pytest.raises(StageError, match="uint8"):
        settled(proto, requantize=False)


def test_a_refusal_names_the_operator_that_the_user_knows() -> None:
    proto = model(
        "(uint8[2,8] x) => (uint8[2,4] y) { y = QLinearMatMul(x, s, z, w, s, z, s, z) }",
        opset=17, ir_version=8, w=np.ones((8, 4), np.uint8), s=np.asarray(0.05, np.float32), z=np.asarray(7, np.uint8),
    )  # fmt: skip
    with pytest.raises(StageError, match=r"uint8.*QLinearMatMul"):
        settled(proto, requantize=False)


def in_tensorrts_words(opset: int) -> onnx.ModelProto:
    """A product whose operands Model Optimizer has quantized to FP8."""
    nodes = []
    for value in ("x", "w"):
        for op, before, after in (("Quantize", value, f"{value}q"), ("Dequantize", f"{value}q", f"{value}d")):
            nodes.append(
                helper.make_node(f"TRT_FP8{op}Linear", [before, f"{value}s"], [after], f"{op}_{value}", domain="trt")
            )
    nodes.append(helper.make_node("MatMul", ["xd", "wd"], ["y"], "product"))
    weights = {"w": normal(8, 4), "xs": np.asarray(0.01, np.float32), "ws": np.asarray(0.02, np.float32)}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [2, 8])], [helper.make_tensor_value_info("y", 1, [2, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("trt", 1)], ir_version=9
    )


@pytest.mark.parametrize("opset", [17, 19])
def test_tensorrts_quantizers_are_written_as_onnxs(opset: int) -> None:
    import ml_dtypes

    result, _ = settled(in_tensorrts_words(opset), requantize=False)
    assert {node.domain for node in result.graph.node} == {""}
    onnx.checker.check_model(result)

    def rounded(array: np.ndarray, scale: float) -> np.ndarray:
        steps = np.clip(array / np.float32(scale), -448, 448).astype(ml_dtypes.float8_e4m3fn)
        return steps.astype(np.float32) * np.float32(scale)

    x = normal(2, 8)
    expected = rounded(x, 0.01) @ rounded(normal(8, 4), 0.02)
    np.testing.assert_allclose(run(result, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


BLOCK = 16


def int4_weights(form: str) -> onnx.ModelProto:
    """A product whose weight Model Optimizer has quantized to INT4 in blocks, in TensorRT's words; or marked for it."""
    steps = np.random.default_rng(0).integers(-8, 8, [64, 32])
    scale = np.abs(normal(64 // BLOCK, 32, seed=5)) * 0.05 + 0.01
    floats = (steps * np.repeat(scale, BLOCK, 0)).astype(np.float32)
    operator = "DequantizeLinear" if form == "marked" else form
    nodes = [
        helper.make_node(operator, ["w", "s"], ["wd"], "dequantize", domain="trt", axis=0, block_size=BLOCK),
        helper.make_node("MatMul", ["x", "wd"], ["y"], "product"),
    ]
    weight = (
        numpy_helper.from_array(floats, "w")
        if form == "marked"
        else helper.make_tensor("w", TensorProto.INT4, steps.shape, steps.flatten())
    )
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [4, 64])], [helper.make_tensor_value_info("y", 1, [4, 32])],
        [weight, numpy_helper.from_array(scale, "s"), numpy_helper.from_array(floats, "floats")],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("trt", 1)], ir_version=9
    )


class TestInt4OfTensorRT:
    def product(self, proto: onnx.ModelProto) -> np.ndarray:
        floats = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "floats")
        wanted: np.ndarray = normal(4, 64) @ floats
        return wanted

    @pytest.mark.parametrize("form", ["TRT_INT4DequantizeLinear", "DequantizeLinear"])
    def test_it_is_written_as_onnxs(self, form: str) -> None:
        proto = int4_weights(form)
        result, _ = settled(proto, requantize=False)
        onnx.checker.check_model(result, full_check=True)
        assert operators(result) == ["DequantizeLinear", "MatMul"]
        found = run(result, {"x": normal(4, 64)})["y"]
        np.testing.assert_allclose(found, self.product(proto), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("form", ["TRT_INT4DequantizeLinear", "DequantizeLinear", "marked"])
    def test_taken_out_the_weight_is_what_it_stands_for(self, form: str) -> None:
        proto = int4_weights(form)
        result, notes = settled(proto, requantize=True)
        assert any("taken out" in note for note in notes)
        assert operators(result) == ["MatMul"]
        found = run(result, {"x": normal(4, 64)})["y"]
        np.testing.assert_allclose(found, self.product(proto), rtol=1e-5, atol=1e-5)

    def test_what_is_only_marked_is_refused_by_name(self) -> None:
        with pytest.raises(StageError, match="'dequantize' is a DequantizeLinear of domain trt") as caught:
            settled(int4_weights("marked"), requantize=False)
        assert "--requantize" in caught.value.remedy


def test_taken_out_floats_of_8_bits_keep_their_fractions() -> None:
    proto = in_tensorrts_words(19)
    result, _ = settled(proto, requantize=True)
    assert operators(result) == ["MatMul"]
    stored = in_tensorrts_words(19)
    del stored.graph.node[2], stored.graph.initializer[0]  # the weight comes in 8 bits already
    stored.graph.initializer.append(helper.make_tensor("wq", TensorProto.FLOAT8E4M3FN, [8, 4], [1.5, -0.375] * 16))
    result, _ = settled(stored, requantize=True)
    weight = np.tile(np.float32([1.5, -0.375]), 16).reshape(8, 4) * np.float32(0.02)
    np.testing.assert_allclose(run(result, {"x": normal(2, 8)})["y"], normal(2, 8) @ weight, rtol=1e-5, atol=1e-6)


class TestHalfFormats:
    def given(self, kind: str) -> onnx.ModelProto:
        """float32 outside, 16 bits inside; and one 16-bit output."""
        proto = model(
            f"(float[2,8] x, {kind}[4] k) => (float[2,4] y, {kind}[2,4] z) {{ c = Cast<to={self.code(kind)}>(x) "
            f"h = MatMul(c, w) z = Mul(h, k) y = Cast<to=1>(z) }}",
            opset=17, ir_version=8,
        )  # fmt: skip
        weight = numpy_helper.to_array(numpy_helper.from_array(normal(8, 4)))
        proto.graph.initializer.append(helper.make_tensor("w", self.code(kind), [8, 4], weight.flatten()))
        return proto

    def code(self, kind: str) -> int:
        return {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[kind]

    def widened(self, proto: onnx.ModelProto, kept: Any = None) -> tuple[onnx.ModelProto, list[str]]:
        notes: list[str] = []
        loaded = ir.serde.deserialize_model(proto)
        settle_half_formats(loaded, notes, kept)
        return ir.serde.serialize_model(loaded), notes

    @pytest.mark.parametrize("kind", ["float16", "bfloat16"])
    def test_inside_is_float32_and_the_interface_as_it_was(self, kind: str) -> None:
        proto = self.given(kind)
        result, notes = self.widened(proto)
        assert kind in notes[0]
        onnx.checker.check_model(result, full_check=True)
        for side in ("input", "output"):
            before, after = (getattr(each.graph, side) for each in (proto, result))
            assert [(v.name, v.type.tensor_type.elem_type) for v in after] == [
                (v.name, v.type.tensor_type.elem_type) for v in before
            ]
        assert {tensor.data_type for tensor in result.graph.initializer} == {TensorProto.FLOAT}

    def test_it_computes_what_the_weights_say(self) -> None:
        x, k = normal(2, 8), normal(4).astype(np.float16)
        found = run(self.widened(self.given("float16"))[0], {"x": x, "k": k})
        expected = (x @ normal(8, 4).astype(np.float16).astype(np.float32)) * k.astype(np.float32)
        np.testing.assert_allclose(found["y"], expected, rtol=1e-5, atol=1e-6)
        assert found["z"].dtype == np.float16

    def test_what_the_engine_computes_in_stays(self) -> None:
        proto = self.given("float16")
        assert self.widened(proto, FP16)[1] == []
        assert self.widened(proto, BF16)[1] != []
        assert self.widened(network())[1] == []
