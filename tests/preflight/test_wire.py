from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtpipe.preflight.wire import read_without_weights, with_weights

if TYPE_CHECKING:
    from pathlib import Path

LARGE, SMALL = 1025, 1024


def model(*sizes: int) -> onnx.ModelProto:
    """One initializer of so many bytes each, and a node for each."""
    tensors = [numpy_helper.from_array(np.arange(n, dtype=np.uint8), f"w{i}") for i, n in enumerate(sizes)]
    nodes = [helper.make_node("Shape", [tensor.name], [f"y{i}"], name=f"n{i}") for i, tensor in enumerate(tensors)]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.INT64, [1]) for i in range(len(sizes))]
    graph = helper.make_graph(nodes, "g", [], outputs, tensors, doc_string="words")
    return helper.make_model(graph, producer_name="tests", opset_imports=[helper.make_opsetid("", 19)])


def test_only_the_large_values_of_initializers_are_left_out(tmp_path: Path) -> None:
    whole = model(LARGE, SMALL, 0, 5000)
    onnx.save(whole, tmp_path / "m.onnx")
    found = onnx.ModelProto.FromString(read_without_weights(tmp_path / "m.onnx"))
    assert [len(tensor.raw_data) for tensor in found.graph.initializer] == [0, SMALL, 0, 0]
    for tensor in whole.graph.initializer:
        if len(tensor.raw_data) > SMALL:
            tensor.ClearField("raw_data")
    assert found == whole


@pytest.mark.parametrize("sizes", [(), (0,), (1, 127, 128, 5000, 70_000)])
def test_weights_are_put_where_protobuf_puts_them(sizes: tuple[int, ...]) -> None:
    whole = model(*sizes)
    whole.metadata_props.add(key="a", value="b")
    tensors = [tensor.SerializeToString() for tensor in whole.graph.initializer]
    bare = onnx.ModelProto()
    bare.CopyFrom(whole)
    del bare.graph.initializer[:]
    assert b"".join(with_weights(bare.SerializeToString(), tensors)) == whole.SerializeToString()


def test_values_that_are_attributes_or_not_raw_stay(tmp_path: Path) -> None:
    whole = model(1)
    whole.graph.initializer[0].CopyFrom(helper.make_tensor("w0", TensorProto.FLOAT, [2000], np.ones(2000)))
    value = numpy_helper.from_array(np.ones(2000, np.float32))
    whole.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))
    onnx.save(whole, tmp_path / "m.onnx")
    assert onnx.ModelProto.FromString(read_without_weights(tmp_path / "m.onnx")) == whole


def test_every_truncation_is_found_or_ends_between_two_fields(tmp_path: Path) -> None:
    data = model(LARGE, 3).SerializeToString()
    path = tmp_path / "m.onnx"
    ends = set()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        try:
            read_without_weights(path)
        except ValueError:
            continue
        ends.add(end)
    for end in ends:  # protobuf itself takes these prefixes too
        onnx.ModelProto.FromString(data[:end])
    assert len(ends) < 6


@pytest.mark.parametrize(
    "data",
    [b"\x3a\xff\xff\xff\xff\x0f", b"\x3a" + b"\xff" * 12, b"\x0b", b"\x00\x00", b"\x3a\x02\x2a\x05" + b"\0" * 9],
    ids=["length beyond the file", "endless number", "group", "field 0", "longer than its message"],
)
def test_garbled_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"byte|cut short"):
        read_without_weights(tmp_path / "m.onnx")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("wire") / "m.onnx"
    path.write_bytes(data)
    try:
        found = read_without_weights(path)
    except ValueError:
        return
    assert len(found) <= len(data) + 10
