from __future__ import annotations

import onnx_ir as ir
import pytest
from models import branches, conv_net, listed_initializers, model
from onnx_ir.passes import common

from trtpipe.errors import StageError
from trtpipe.passes.graph_pass import (
    Borrowed,
    FreshNames,
    GraphPass,
    PassResult,
    graphs_of,
    node_label,
    run_passes,
)


def load(proto) -> ir.Model:
    return ir.serde.deserialize_model(proto)


class Breaks(GraphPass):
    """Applies the given change to the model."""

    name = "breaks"

    def __init__(self, change) -> None:
        self._change = change

    def call(self, model):
        self._change(model)
        return PassResult(self.name, modified=True)


def rename_input(model):
    model.graph.inputs[0].name = "z"


def retype_output(model):
    model.graph.outputs[0].dtype = ir.DataType.FLOAT16


def flatten_output(model):
    model.graph.outputs[0].shape = ir.Shape([15])


def drop_output(model):
    model.graph.outputs.clear()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_input, r"inputs were \['x'\], now \['z'\]"),
        (retype_output, "output 'y' was float32, now float16"),
        (flatten_output, "output 'y' had rank 2, now 1"),
        (drop_output, r"outputs were \['y'\], now \[\]"),
    ],
)
def test_a_pass_that_breaks_the_interface_is_caught_and_named(change, words):
    with pytest.raises(StageError, match=f"pass breaks changed the model's interface: {words}"):
        run_passes(load(conv_net()), [Breaks(change)])


def test_order_and_hooks():
    heard = []

    class Hooked(GraphPass):
        name = "hooked"

        def requires(self, model):
            heard.append("requires")

        def call(self, model):
            heard.append("call")
            return PassResult(self.name, modified=False)

        def ensures(self, model):
            heard.append("ensures")

    results = run_passes(load(conv_net()), [Hooked(), Breaks(lambda model: heard.append("second"))])
    assert heard == ["requires", "call", "ensures", "second"]
    assert [(result.name, result.modified) for result in results] == [("hooked", False), ("breaks", True)]


def test_a_refusal_leaves_the_model_alone():
    class Refuses(Breaks):
        def requires(self, model):
            raise StageError("too old", "export again")

    loaded = load(conv_net())
    with pytest.raises(StageError, match="too old"):
        run_passes(loaded, [Refuses(rename_input)])
    assert loaded.graph.inputs[0].name == "x"


def test_borrowed_passes_run_under_the_same_check():
    loaded = load(listed_initializers())
    assert [value.name for value in loaded.graph.inputs] == ["x", "w"]
    [result] = run_passes(loaded, [Borrowed("their_pass", common.RemoveInitializersFromInputsPass)])
    assert (result.name, result.modified) == ("their_pass", True)
    assert [value.name for value in loaded.graph.inputs] == ["x"]


def test_a_borrowed_pass_must_work_in_place():
    class Copies(ir.passes.FunctionalPass):
        def call(self, model):
            return ir.passes.PassResult(load(conv_net()), modified=True)

    with pytest.raises(StageError, match="pass copies returned another model"):
        run_passes(load(conv_net()), [Borrowed("copies", Copies)])


def test_graphs_of_a_model_with_bodies():
    assert [graph.name for graph in graphs_of(load(branches()))] == ["g", "t", "e"]


def test_labels():
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }")
    proto.graph.node[1].name = ""
    assert [node_label(node) for node in load(proto).graph] == ["relu_0", "y"]


def test_fresh_names_meet_no_node_either():
    """A node may be called as a pass would call what it makes: x_dequantize, node_linear_2."""
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }")
    for node, name in zip(proto.graph.node, ("x_dequantize", "x_dequantize_2"), strict=True):
        node.name = name
    fresh = FreshNames(load(proto))
    assert [fresh("x_dequantize"), fresh("x_dequantize"), fresh("relu")] == ["x_dequantize_3", "x_dequantize_4", "relu"]


def test_fresh_names_meet_no_value_of_any_graph():
    fresh = FreshNames(load(branches()))
    assert [fresh("new"), fresh("new"), fresh("new")] == ["new", "new_2", "new_3"]
    assert [fresh(name) for name in ("x", "w", "q", "h")] == ["x_2", "w_2", "q_2", "h_2"]  # h is inside a body
