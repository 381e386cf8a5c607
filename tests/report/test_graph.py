from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import branches, conv_net, listed_initializers, model, normal, save, shape_arithmetic
from onnx import helper

from trtpipe.errors import InputError
from trtpipe.report.graph import summarize_graph


def test_figures_of_a_model(tmp_path):
    found = summarize_graph(save(conv_net(), tmp_path / "m.onnx"))
    assert (found.ir_version, found.opsets, found.nodes) == (10, {"ai.onnx": 20}, 6)
    assert found.operators == dict.fromkeys(
        ["Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Flatten", "Gemm"], 1
    )
    assert found.weights == {"float32": 4 * (4 * 3 * 3 * 3 + 4 * 4 + 5 * 4 + 5)}
    assert found.weight_bytes == sum(found.weights.values())
    assert [str(spec) for spec in found.contract.inputs] == ["x: float32[Nx3x8x8]"]
    assert (found.quantize, found.dequantize, found.casts, found.external) == (0, 0, 0, ())


def test_bodies_and_constants_count(tmp_path):
    found = summarize_graph(save(branches(), tmp_path / "m.onnx"))
    assert found.nodes == 3 + 4
    assert found.operators == {"Relu": 2, "If": 1, "MatMul": 1, "Sigmoid": 1, "Add": 1, "Mul": 1}
    constant = model("(float[2] x) => (float[2] y) { c = Constant<value=double[2] {1.0, 2.0}>() y = Relu(x) }")
    assert summarize_graph(save(constant, tmp_path / "c.onnx")).weights == {"float64": 16}


def test_nodes_that_move_between_precisions(tmp_path):
    proto = model(
        "(float[2] x) => (float[2] y) { q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) y = Relu(d) }",
        s=np.float32(1),
    )
    found = summarize_graph(save(proto, tmp_path / "m.onnx"))
    assert (found.quantize, found.dequantize, found.casts) == (1, 1, 0)
    assert summarize_graph(save(shape_arithmetic(), tmp_path / "s.onnx")).casts == 2


def test_4_bit_weights_take_half_a_byte(tmp_path):
    proto = conv_net()
    proto.graph.initializer.append(helper.make_tensor("i4", onnx.TensorProto.INT4, [5], [1, 2, 3, 4, 5]))
    assert summarize_graph(save(proto, tmp_path / "m.onnx")).weights["int4"] == 3


def test_initializers_that_are_listed_as_inputs_are_no_inputs(tmp_path):
    found = summarize_graph(save(listed_initializers(), tmp_path / "m.onnx"))
    assert [spec.name for spec in found.contract.inputs] == ["x"]


def test_external_data_is_named_and_not_read(tmp_path):
    proto = model("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    found = summarize_graph(tmp_path / "m.onnx")
    assert found.external == ("m.bin",)
    assert found.weights == {"float32": 64 * 64 * 4}


def test_a_negative_dimension(tmp_path):
    proto = conv_net()
    proto.graph.initializer[0].dims[0] = -4
    with pytest.raises(InputError, match=r"m\.onnx: a damaged ONNX model"):
        summarize_graph(save(proto, tmp_path / "m.onnx"))
