from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import CASES, feed_for, listed_initializers, model, run, weights_of
from onnx import helper

from trtpipe.passes.clean_up import clean_up


def cleaned(proto: onnx.ModelProto) -> onnx.ModelProto:
    loaded = ir.serde.deserialize_model(proto)
    clean_up(loaded)
    result = ir.serde.serialize_model(loaded)
    onnx.checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_change(name):
    proto = CASES[name]()
    feed = feed_for(proto)
    found, expected = run(cleaned(proto), feed), run(proto, feed)
    assert list(found) == list(expected)
    for output, values in expected.items():
        np.testing.assert_array_equal(found[output], values)


@pytest.mark.parametrize("name", CASES)
def test_doing_it_twice_does_nothing_more(name):
    once = cleaned(CASES[name]())
    assert cleaned(once).SerializeToString() == once.SerializeToString()


def test_passes_keep_nothing_of_a_model_they_rewrote():
    loaded = ir.serde.deserialize_model(doubled_twice())
    clean_up(loaded)
    gone = weakref.ref(loaded.graph[0])
    del loaded
    gc.collect()
    assert gone() is None


def test_initializers_are_inputs_no_longer():
    result = cleaned(listed_initializers())
    assert [value.name for value in result.graph.input] == ["x"]
    assert list(weights_of(result)) == ["w"]


def test_constants_become_initializers_inside_bodies_too():
    proto = model(
        "(float[2] x, bool c) => (float[2] y) { k = Constant<value_float=2.0>() m = Mul(x, k) "
        "y = If(c) <then_branch = t () => (float[2] a) { i = Constant<value=float[1] {3.0}>() a = Add(m, i) }, "
        "else_branch = e () => (float[2] b) { b = Neg(m) }> }"
    )
    result = cleaned(proto)
    assert [node.op_type for node in result.graph.node] == ["Mul", "If"]
    assert weights_of(result)["k"] == 2
    bodies = {attribute.name: attribute.g for attribute in result.graph.node[1].attribute}
    assert [node.op_type for node in bodies["then_branch"].node] == ["Add"]
    assert run(result, {"x": np.ones(2, np.float32), "c": np.array(True)})["y"].tolist() == [5, 5]


def test_dead_nodes_and_weights_go():
    proto = model("(float[2] x) => (float[2] y) { y = Relu(x) dead = Add(x, w) }", w=np.ones(2, np.float32))
    result = cleaned(proto)
    assert [node.op_type for node in result.graph.node] == ["Relu"]
    assert weights_of(result) == {}


def doubled_twice() -> onnx.ModelProto:
    """Two calls of one local function."""
    double = helper.make_function(
        "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    graph = helper.make_graph(
        [
            helper.make_node("Double", ["x"], ["h"], domain="own"),
            helper.make_node("Double", ["h"], ["y"], domain="own"),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=[double], opset_imports=opsets, ir_version=10)


def test_functions_are_inlined():
    result = cleaned(doubled_twice())
    assert [node.op_type for node in result.graph.node] == ["Add", "Add"]
    assert not result.functions
    assert [entry.domain for entry in result.opset_import] == [""]
    assert run(result, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [4, 8]
