"""Nodes that TensorRT takes in float32 only: computed there, in 16-bit graphs and in lowered ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import normal
from onnx.reference import ReferenceEvaluator

from trtpipe.autocast.convert import CastPrecision
from trtpipe.backends.base import missing
from trtpipe.backends.tensorrt_rtx import TensorRTRTX
from trtpipe.config.formats import BF16, FP16
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.passes.float32_forms import ComputeInFloat32
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes

rtx_only = pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, SIZE, HIDDEN = 5, 2, 4, 8


def recurrent(op: str, element: int, *, lengths: bool) -> onnx.ModelProto:
    """A recurrent layer alone, with or without an input of sequence lengths."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    weights = {"W": normal(1, GATES[op] * HIDDEN, SIZE), "R": normal(1, GATES[op] * HIDDEN, HIDDEN)}
    node = onnx.helper.make_node(
        op, ["x", "W", "R", "", "lens"] if lengths else ["x", "W", "R"], ["y"], name="layer", hidden_size=HIDDEN
    )
    inputs = [onnx.helper.make_tensor_value_info("x", element, [STEPS, BATCH, SIZE])]
    if lengths:
        inputs.append(onnx.helper.make_tensor_value_info("lens", onnx.TensorProto.INT32, [BATCH]))
    graph = onnx.helper.make_graph(
        [node], "g", inputs, [onnx.helper.make_tensor_value_info("y", element, [STEPS, 1, BATCH, HIDDEN])],
        initializer=[onnx.numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def rewritten(proto: onnx.ModelProto, *passes) -> onnx.ModelProto:
    loaded = ir.serde.deserialize_model(proto)
    run_passes(loaded, [InferTypes(), *passes])
    return ir.serde.serialize_model(loaded)


def taken(proto: onnx.ModelProto, folder) -> bool:
    onnx.save(proto, folder / "m.onnx")
    profile = DeploymentProfile()
    return TensorRTRTX().refuses_nodes(folder / "m.onnx", profile, Settings(cache_dir=folder)) is None


@rtx_only
@pytest.mark.parametrize("op", GATES)
def test_a_recurrent_layer_with_lengths_in_a_16_bit_graph(op, tmp_path):
    proto = recurrent(op, onnx.TensorProto.FLOAT16, lengths=True)
    assert not taken(proto, tmp_path)
    cast = rewritten(proto, ComputeInFloat32())
    assert taken(cast, tmp_path)
    assert [value.type.tensor_type.elem_type for value in (cast.graph.input[0], cast.graph.output[0])] == [10, 10]
    x, lengths = normal(STEPS, BATCH, SIZE).astype(np.float16), np.array([5, 3], np.int32)
    before, after = (ReferenceEvaluator(each).run(None, {"x": x, "lens": lengths})[0] for each in (proto, cast))
    assert before.shape == after.shape
    assert np.abs(after.astype(np.float32) - before.astype(np.float32)).max() < 2e-2  # the first rounds at every step


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("lengths", [True, False])
def test_lowering_keeps_it_with_lengths_only(op, lengths):
    loaded = ir.serde.deserialize_model(recurrent(op, onnx.TensorProto.FLOAT, lengths=lengths))
    *_, result = run_passes(loaded, [InferTypes(), CastPrecision(FP16)])
    (decision,) = result.decisions
    assert decision.precision == ("float32" if lengths else "float16")


@rtx_only
@pytest.mark.parametrize("op", ["HardSwish", "Mish"])
def test_activations_that_bfloat16_lacks(op, tmp_path):
    graph = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 22]> g (bfloat16[2,4] x) => (bfloat16[2,4] y)'
        f" {{ a = Relu(x) y = {op}(a) }}"
    )
    assert not taken(graph, tmp_path)
    assert taken(rewritten(graph, ComputeInFloat32()), tmp_path)


@rtx_only
@pytest.mark.parametrize(("name", "code"), [("float16", 10), ("bfloat16", 16)])
def test_a_normalization_over_mean_and_variance(name, code, tmp_path):
    def graph(kind):
        return onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : 13]> g ({kind}[4,3,5,6] x) => ({kind}[4,3,5,6] y)'
            " { y = MeanVarianceNormalization<axes = [0, 2]>(x) }"
        )

    assert not taken(graph(name), tmp_path)
    assert taken(rewritten(graph(name), ComputeInFloat32()), tmp_path)
    *_, result = run_passes(
        ir.serde.deserialize_model(graph("float")), [InferTypes(), CastPrecision(FP16 if code == 10 else BF16)]
    )
    assert [decision.precision for decision in result.decisions] == ["float32"]


def test_other_graphs_stay_as_they_are():
    proto = recurrent("LSTM", onnx.TensorProto.FLOAT16, lengths=False)
    loaded = ir.serde.deserialize_model(proto)
    *_, result = run_passes(loaded, [InferTypes(), ComputeInFloat32()])
    assert not result.modified
