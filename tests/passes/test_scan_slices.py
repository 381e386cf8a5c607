"""Scan, whose steps TensorRT-RTX does not let a Cast read."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from models import model, normal, run, save

from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.scan_slices import SeparateScanSlices

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

BUILD = """
import sys, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
assert trt.OnnxParser(network, logger).parse_from_file(sys.argv[1])
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
sys.exit(0 if builder.build_serialized_network(network, config) else 3)
"""
BODIES = {
    "a cast": "h = Cast<to=10>(t) m = Mul(h, h) w = Cast<to=1>(m) so = Add(s, w) zo = Relu(so)",
    "moved before": "p = Transpose<perm=[0,1]>(t) h = Cast<to=10>(p) m = Neg(h) so = Cast<to=1>(m) zo = Add(so, s)",
    "two readers": "h = Cast<to=10>(t) b = Cast<to=1>(h) so = Add(t, b) zo = Sub(s, t)",
}


def scan(body: str) -> onnx.ModelProto:
    inner = f"b (float[2,8] s, float[2,8] t) => (float[2,8] so, float[2,8] zo) {{ {body} }}"
    return model(
        "(float[2,8] initial, float[3,2,8] x) => (float[2,8] y, float[3,2,8] z) "
        f"{{ y, z = Scan <num_scan_inputs: int = 1, body: graph = {inner}> (initial, x) }}"
    )


def separated(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    loaded = ir.serde.deserialize_model(proto)
    (result,) = run_passes(loaded, (SeparateScanSlices(),))
    return ir.serde.serialize_model(loaded), result.modified


def engine(proto: onnx.ModelProto, folder: Path) -> int:
    """0 if TensorRT-RTX alone builds it."""
    command = [sys.executable, "-c", BUILD, str(save(proto, folder / "scan.onnx"))]
    return subprocess.run(command, check=False, capture_output=True).returncode


@pytest.mark.parametrize("name", BODIES)
def test_it_builds_and_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    proto = scan(BODIES[name])
    result, modified = separated(proto)
    assert modified
    feed = {"initial": normal(2, 8), "x": normal(3, 2, 8)}
    for output, value in run(proto, feed).items():
        np.testing.assert_array_equal(run(result, feed)[output], value)
    assert engine(result, tmp_path) == 0


def test_without_it_the_compiler_stops(tmp_path: Path) -> None:
    """A version of TensorRT-RTX that builds it needs the pass no longer."""
    pytest.importorskip("tensorrt_rtx")
    assert engine(scan(BODIES["a cast"]), tmp_path) == 3


@pytest.mark.parametrize(
    "body", ["so = Add(s, t) zo = Relu(so)", "h = Cast<to=10>(s) w = Cast<to=1>(h) so = Add(w, t) zo = Relu(t)"]
)
def test_bodies_without_such_a_cast_stay(body: str) -> None:
    assert not separated(scan(body))[1]
