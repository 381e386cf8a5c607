from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import branches, conv_net, feed_for, residual, run, with_outputs

from trtpipe.errors import InternalError
from trtpipe.passes.expose import expose
from trtpipe.passes.infer_types import InferTypes


def exposed(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    loaded = ir.serde.deserialize_model(proto)
    InferTypes().call(loaded)
    expose(loaded, names)
    return ir.serde.serialize_model(loaded)


def test_exactly_the_tensors_asked_for_in_that_order():
    proto = residual()
    result = exposed(proto, "s", "r")
    feed = feed_for(proto)
    found = run(result, feed)
    assert list(found) == ["s", "r"]
    expected = run(with_outputs(proto, ["s", "r"]), feed)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_what_none_of_them_needs_is_dropped():
    assert [node.op_type for node in exposed(residual(), "r").graph.node] == ["Relu"]
    assert [node.op_type for node in exposed(residual(), "a").graph.node] == ["Relu", "Conv"]


def test_graph_inputs_are_known_already():
    proto = conv_net()
    assert [value.name for value in exposed(proto, "x", "f").graph.output] == ["f"]
    only_inputs = exposed(proto, "x")
    assert [value.name for value in only_inputs.graph.output] == ["y"]  # something must be left to run


def test_nothing_asked_for():
    assert exposed(conv_net()).graph.output[0].name == "y"


def test_an_output_of_the_model_itself():
    assert [value.name for value in exposed(residual(), "y", "r").graph.output] == ["y", "r"]


def test_a_tensor_of_an_unknown_type_counts_as_float32():
    loaded = ir.serde.deserialize_model(residual())
    expose(loaded, ["a"])
    assert loaded.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_unknown_tensors_are_our_own_mistake():
    with pytest.raises(InternalError, match="no node produces the tensor 'nowhere'"):
        exposed(branches(), "r", "nowhere")
