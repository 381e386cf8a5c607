"""ONNX files as they come, built with TensorRT-RTX, and what their engines compute in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from models import model, normal, save
from onnx import helper, numpy_helper

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.api.results import BuildResult

pytest.importorskip("tensorrt_rtx")

SHAPE = [4, 16, 24, 24]


def network(kind: str = "float") -> onnx.ModelProto:
    """Two convolutions that are worth 8 bits; in 16 bits inside."""
    code = {"float": 1, "float16": 10, "bfloat16": 16}[kind]
    proto = model(
        f"(float[4,16,24,24] x) => (float[4,32,24,24] y) {{ h = Cast<to={code}>(x) c = Conv<pads=[1,1,1,1]>(h, w1) "
        "r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w2) y = Cast<to=1>(d) }", opset=22,
    )  # fmt: skip
    for name, weight in {"w1": normal(64, 16, 3, 3, seed=1) / 12, "w2": normal(32, 64, 3, 3, seed=2) / 24}.items():
        proto.graph.initializer.append(helper.make_tensor(name, code, weight.shape, weight.flatten()))
    return proto


def quantized_with_zero_points() -> onnx.ModelProto:
    proto = network()
    pair = {"s": np.asarray(0.03, np.float32), "z": np.asarray(7, np.uint8)}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in pair.items())
    proto.graph.node.insert(3, helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], "quantize"))
    proto.graph.node.insert(4, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], "dequantize"))
    proto.graph.node[5].input[0] = "dq"
    return proto


def built(
    proto: onnx.ModelProto, folder: Path, heard: Any, precision: str, **profile: Any
) -> tuple[BuildResult, dict[str, int]]:
    """The result, and how many Conv layers of the engine compute in which type."""
    result = trtpipe.build(
        str(save(proto, folder / "given.onnx")),
        folder / "out",
        targets=["sm89"],
        calib_data=[{"x": normal(*SHAPE, seed=seed)} for seed in range(8)],
        profile=DeploymentProfile.model_validate({"precision": precision, "backend": "tensorrt-rtx", **profile}),
        settings=Settings(cache_dir=folder / "cache"),
        progress=heard,
    )
    report = EngineRecord.read(folder / "out" / "sm89.plan.json").report
    assert report is not None
    return result, report.conv_gemm_types


def test_nodes_out_of_order(tmp_path: Path, heard_all: Any) -> None:
    proto = network()
    nodes = onnx.GraphProto(node=reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes.node)
    result, products = built(proto, tmp_path, heard_all, "fp16")
    assert result.accurate
    assert products == {"Half": 2}


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(("precision", "types"), [("int8", {"Int8": 2}), ("fp32", {"Float": 2})])
def test_a_model_in_16_bits(kind: str, precision: str, types: dict[str, int], tmp_path: Path, heard_all: Any) -> None:
    result, products = built(network(kind), tmp_path, heard_all, precision)
    assert result.accurate
    assert products == types
    assert any(f"the model is in {kind}" in note for note in heard_all.notes)


def test_quantized_with_zero_points(tmp_path: Path, heard_all: Any) -> None:
    with pytest.raises(StageError, match="uint8"):
        built(quantized_with_zero_points(), tmp_path, heard_all, "int8")
    result, products = built(quantized_with_zero_points(), tmp_path, heard_all, "int8", requantize=True)
    assert result.accurate
    assert products == {"Int8": 2}
