"""What the tests of PyTorch exports share: a request, an export in this process, and a comparison with PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from models import run

from trtpipe.exporter.arrays import array_of
from trtpipe.exporter.request import TorchRequest
from trtpipe.exporter.structure import tensors_in
from trtpipe.exporter.torch_export import export_module
from trtpipe.report.stage_records import ExportRecord


def request(workdir: Path, **options) -> TorchRequest:
    defaults = {"module": "", "function": "", "opset": 20, "shapes": {}, "input_names": (), "output_names": ()}
    return TorchRequest(workdir=str(workdir), **(defaults | options))


def export(module, examples, workdir: Path, **options) -> tuple[onnx.ModelProto, ExportRecord]:
    """The graph and its record."""
    export_module(module, examples, request(workdir, **options))
    proto = onnx.load(workdir / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto, ExportRecord.read(workdir / "model.onnx.json")


def inputs_of(proto: onnx.ModelProto) -> list[str]:
    return [value.name for value in proto.graph.input]


def outputs_of(proto: onnx.ModelProto) -> list[str]:
    return [value.name for value in proto.graph.output]


def assert_computes(proto: onnx.ModelProto, tensors, wanted, tolerance: float = 1e-5) -> None:
    """The graph gives for ``tensors``, in the order of its inputs, the tensors that are in ``wanted``."""
    feed = {name: array_of(tensor) for name, tensor in zip(inputs_of(proto), tensors, strict=True)}
    found = run(proto, feed)
    with torch.no_grad():
        expected = tensors_in(wanted)
    assert len(found) == len(expected)
    for name, tensor in zip(outputs_of(proto), expected, strict=True):
        np.testing.assert_allclose(found[name], array_of(tensor), rtol=tolerance, atol=tolerance)
