"""How far onnxruntime may optimize a graph: its fusions are wrong for some formats, here and wherever it runs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from trtpipe.backends.target_support import graphs_in
from trtpipe.config.formats import FORMATS, FP32
from trtpipe.preflight.wire import read_without_weights

if TYPE_CHECKING:
    from pathlib import Path


def safe_level(model: Path) -> int:
    """The highest graph optimization level at which onnxruntime is correct for the types in ``model``.

    The table of formats tells what goes wrong above it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    with suppress(ValueError, DecodeError):  # onnxruntime reports what is wrong with it
        proto.ParseFromString(read_without_weights(model))
    types: set[int] = set()  # of the constants
    for graph in graphs_in(proto.graph):
        types.update(tensor.data_type for tensor in graph.initializer)
        types.update(each.t.data_type for node in graph.node for each in node.attribute if each.HasField("t"))
    codes = onnx.TensorProto.DataType
    return min(form.cpu_level for form in FORMATS if form is FP32 or codes.Value(form.onnx) in types)
