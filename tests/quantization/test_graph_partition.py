"""Partitioning a graph: what comes behind gives the same, from the values that cross the partition."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from models import CASES, feed_for, model, normal, run
from numpy.testing import assert_allclose

from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.macs import sizes_of, work_of
from trtpipe.quantization.simulation_graph import behind, find_partitions

CHAIN = (
    "(float[N,8] x) => (float[N,8] y, float[N,8] early) { a = MatMul(x, w) early = Relu(a) b = MatMul(early, w) "
    "s = Shape(b) c = MatMul(b, w) d = Add(c, b) e = MatMul(d, w) f = Reshape(e, s) y = Tanh(f) }"
)


def prepared(proto):
    loaded = ir.from_proto(proto)
    clean_up(loaded)
    run_passes(loaded, [InferTypes()])
    sizes = sizes_of(loaded, {})
    works = {node: work.macs for node in loaded.graph.all_nodes() if (work := work_of(node, sizes)) is not None}
    return loaded, works


def shown(proto, names):
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    have = {value.name for value in whole.graph.output}
    for name in names:
        if name not in have:
            whole.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return whole


def check(proto, partition, feed):
    """Run what is behind the partition from the whole graph's values."""
    everything = run(shown(proto, partition.values), feed)
    rest = behind(proto, partition)
    given = {**feed, **everything}
    found = run(rest, {value.name: given[value.name] for value in rest.graph.input})
    for value in proto.graph.output:
        assert_allclose(found[value.name], everything[value.name], rtol=1e-5, atol=1e-6)
    return rest


def test_a_quarter_of_the_work_between_partitions():
    proto = model(CHAIN, w=normal(8, 8))
    loaded, works = prepared(proto)
    partitions = find_partitions(loaded, works)
    assert [partition.values for partition in partitions] == [("a",), ("early", "b"), ("early", "b", "c")]
    counts = []
    for partition in partitions:
        rest = check(ir.to_proto(loaded), partition, {"x": normal(3, 8, seed=1)})
        counts.append([node.op_type for node in rest.graph.node].count("MatMul"))
        assert "x" not in {value.name for value in rest.graph.input}
    assert counts == [3, 2, 1]


def test_nothing_to_partition():
    loaded, works = prepared(model("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", w=normal(8, 8)))
    assert find_partitions(loaded, works) == ()
    loaded, works = prepared(model("(float[N,8] x) => (float[N,8] y) { a = Relu(x) y = Tanh(a) }"))
    assert find_partitions(loaded, works) == ()


@pytest.mark.parametrize("name", [name for name in CASES if name != "listed_initializers"])
def test_graphs_of_all_kinds(name):
    loaded, works = prepared(CASES[name]())
    proto = ir.to_proto(loaded)
    for partition in find_partitions(loaded, works):
        check(proto, partition, feed_for(proto))
