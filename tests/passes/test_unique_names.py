from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import CASES, model, run
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from trtpipe.passes.graph_pass import graphs_of
from trtpipe.passes.unique_names import UniqueNames

BRANCHES = (
    "(float[2] x, bool c) => (float[2] y) { y = If(c) <"
    "then_branch = t () => (float[2] a) { k = Constant<value_float=2.0>() h = Mul(x, k) a = Neg(h) }, "
    "else_branch = e () => (float[2] a) { k = Constant<value_float=3.0>() h = Mul(x, k) a = Neg(h) }> }"
)


def renamed(proto):
    """(the model with unique names, whether any name changed)"""
    loaded = ir.serde.deserialize_model(proto)
    for graph in graphs_of(loaded):
        for number, node in enumerate(graph):
            node.name = node.name or f"node_{number}"
    result = UniqueNames().call(loaded)
    return loaded, result.modified


def test_branches_that_share_names_no_longer_do():
    proto = model(BRANCHES)
    loaded, modified = renamed(proto)
    nodes = [node for graph in graphs_of(loaded) for node in graph]
    assert modified
    assert len({node.name for node in nodes}) == len(nodes) == 7
    assert len({value.name for node in nodes for value in node.outputs}) == 7
    assert nodes[0].outputs[0].name == "y"
    for c, factor in ((True, -2), (False, -3)):
        feed = {"x": np.array([1, 2], np.float32), "c": np.array(c)}
        assert run(ir.serde.serialize_model(loaded), feed)["y"].tolist() == [factor, 2 * factor]


def test_a_new_name_is_none_that_is_taken():
    proto = model(BRANCHES.replace("{ y = If", "{ h_2 = Neg(x) unused = Neg(h_2) y = If"))
    loaded, _ = renamed(proto)
    values = [value.name for graph in graphs_of(loaded) for node in graph for value in node.outputs if value.uses()]
    assert len(set(values)) == len(values)
    assert "h_2" in values


def test_weights_of_branches_get_names_of_their_own_and_axes_do_not():
    branch = (
        "(float[1] a) {{ k = Constant<value_ints=[0]>() w = Constant<value_float={}>() h = Mul(x, w) "
        "a = ReduceSum(h, k) }}"
    )
    proto = model(
        "(float[2] x, bool c) => (float[1] y) { y = If(c) <"
        f"then_branch = t () => {branch.format('2.0')}, else_branch = e () => {branch.format('3.0')}> }}"
    )
    loaded = ir.serde.deserialize_model(proto)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(loaded)
    UniqueNames().call(loaded)
    names = [set(graph.initializers) for graph in loaded.graph.subgraphs()]
    assert names == [{"k", "w"}, {"k", "w_2"}]


def test_values_that_nothing_reads_keep_their_names():
    proto = model(BRANCHES.replace("a = Neg(h) }", "a = Neg(h) spare = Neg(h) }"))
    loaded, _ = renamed(proto)
    names = [value.name for graph in graphs_of(loaded) for node in graph for value in node.outputs]
    assert names.count("spare") == 2


@pytest.mark.parametrize("name", CASES)
def test_what_is_unique_stays(name):
    loaded, _ = renamed(CASES[name]())
    once = ir.serde.serialize_model(loaded).SerializeToString()
    assert not UniqueNames().call(loaded).modified
    assert ir.serde.serialize_model(loaded).SerializeToString() == once
