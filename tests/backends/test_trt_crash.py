"""A model that is valid and crashes TensorRT-RTX: the parent lives, and learns which node it was."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtpipe.backends.base import EngineRequest, missing
from trtpipe.backends.tensorrt_rtx import TensorRTRTX
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.target import find_target
from trtpipe.config.toolchain import version
from trtpipe.errors import WorkerCrashed

#: The version that is known to crash: its compiler mistakes a float32 scale before a cast to float16.
CRASHES = "1.7.1.116"


@pytest.fixture
def fp4_product(tmp_path):
    """A product of FP4 activations and weights over float16, whose activation scale is float32."""
    blocks, width = 4, 64
    weights = {
        "scale": np.float32(0.01),
        "weight_scale": np.float16(0.01),
        "weight": np.ones((blocks * 16, width), ml_dtypes.float4_e2m1fn),
        "block_scales": np.ones((blocks, width), ml_dtypes.float8_e4m3fn),
    }
    node = helper.make_node
    nodes = [
        node("Relu", ["x"], ["r"], name="relu_0"),
        node("TRT_FP4DynamicQuantize", ["r", "scale"], ["q", "s8"], name="quantize_1", domain="trt", axis=-1,
             block_size=16, scale_type=TensorProto.FLOAT8E4M3FN),
        node("DequantizeLinear", ["s8", "scale"], ["s"], name="scales_2"),
        node("DequantizeLinear", ["q", "s"], ["a"], name="dequantize_3", axis=-1, block_size=16),
        node("Cast", ["a"], ["h"], name="cast_4", to=TensorProto.FLOAT16),
        node("DequantizeLinear", ["block_scales", "weight_scale"], ["t"], name="scales_5"),
        node("DequantizeLinear", ["weight", "t"], ["w"], name="dequantize_6", axis=0, block_size=16),
        node("MatMul", ["h", "w"], ["y"], name="product_7"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [8, blocks * 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [8, width])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt", 1)]
    path = tmp_path / "fp4.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=11), path)
    return path


@pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")
@pytest.mark.skipif(version("tensorrt-rtx") != CRASHES, reason=f"only {CRASHES} is known to crash")
def test_the_crash_is_an_error_that_names_the_node(fp4_product, tmp_path, settings, heard):
    plan = tmp_path / "e.plan"
    with pytest.raises(WorkerCrashed, match=r"crashed \(SIGSEGV\) while building sm120 from fp4\.onnx") as caught:
        TensorRTRTX().build(
            EngineRequest(fp4_product, DeploymentProfile(), (find_target("sm120"),), plan, settings), heard
        )
    assert caught.value.message.endswith("; the failing node is 'product_7' (MatMul)")
    assert caught.value.phase
    assert {path.name for path in tmp_path.iterdir()} == {"fp4.onnx"}
