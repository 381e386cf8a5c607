"""The simulator's graph, with a condition for every node, against graphs that were lowered for good."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import CASES, conv_net, embedding, feed_for, model, normal, run
from planning import Quantize, settings

from trtpipe.config.formats import FP16, find_format
from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import node_label, run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.quantization.plan import plan
from trtpipe.quantization.simulation_graph import (
    add_branches,
    group_points,
    quantized,
    resolve,
    rounded_to,
    scale_inputs,
)


def prepared(proto):
    model = ir.from_proto(proto)
    clean_up(model)
    run_passes(model, [InferTypes()])
    return model


def simulated(proto, on, lowering=None, precision="int8", shifts=None):
    """The model with the nodes of ``on`` (``None``: all) lowered; and its plan."""
    model = prepared(proto)
    found = plan(model, settings(precision))
    scales = {} if lowering else scale_inputs(model, found)
    conditions = add_branches(model, found.points, lowering or quantized(found, scales, shifts or {}))
    made = ir.to_proto(model)
    onnx.checker.check_model(made)
    results = {point.result for point in found.points if on is None or point.node in on}
    chosen = [condition for result, condition in conditions.items() if result in results]
    return resolve(made, conditions.values(), chosen), found


def run_simulated(made, feed, largest=127.0, amax=3.0):
    """Run it, with one range for all."""
    scales = {value.name: np.float32(amax) / np.float32(largest) for value in made.graph.input}
    return run(made, {name: feed.get(name, np.asarray(scale)) for name, scale in scales.items()})


def lowered(proto, keep=(), precision="int8", amax=3.0):
    model = prepared(proto)
    amax = dict.fromkeys(plan(model, settings()).tensors, amax)
    run_passes(model, [Quantize(find_format(precision), amax, keep)])
    return ir.to_proto(model)


#: listed_initializers has an opset that simplification raises first.
QUANTIZED = [n for n, case in CASES.items() if n != "listed_initializers" and plan(prepared(case()), settings()).points]


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_with_all_nodes_it_is_the_lowered_graph_and_with_none_the_plain_one(name, precision):
    proto = CASES[name]()
    feed = feed_for(proto)
    everything, _ = simulated(proto, None, precision=precision)
    onnx.checker.check_model(everything)
    largest = {"int8": 127.0, "fp8": 448.0}[precision]
    plain = simulated(proto, (), precision=precision)[0]
    for wanted, made in ((lowered(proto, precision=precision), everything), (proto, plain)):
        expected, found = run(wanted, feed), run_simulated(made, feed, largest)
        for output in expected:
            np.testing.assert_allclose(found[output], expected[output], rtol=1e-5, atol=1e-5)


def test_one_condition_lowers_one_node():
    proto = conv_net()
    feed = {"x": normal(3, 3, 8, 8)}
    names = [point.node for point in simulated(proto, ())[1].points]
    assert len(names) == 2
    for name in names:
        rest = tuple(other for other in names if other != name)
        expected, found = run(lowered(proto, rest), feed)["y"], run_simulated(simulated(proto, (name,))[0], feed)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(found - run(proto, feed)["y"]).max() > 1e-4


def test_what_is_not_chosen_is_not_loaded():
    proto = conv_net()
    plain, lowest = (simulated(proto, on)[0] for on in ((), None))
    assert not {node.op_type for node in plain.graph.node} & {"If", "QuantizeLinear", "DequantizeLinear"}
    assert not any(tensor.data_type == onnx.TensorProto.INT8 for tensor in plain.graph.initializer)
    assert "If" not in {node.op_type for node in lowest.graph.node}
    weights = [tensor for tensor in lowest.graph.initializer if len(tensor.dims) > 1]
    assert weights
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in weights)


def test_half_rounds_activations_weights_and_results():
    proto = conv_net()
    feed = {"x": normal(3, 3, 8, 8)}
    exact, found = run(proto, feed)["y"], run(simulated(proto, None, rounded_to(FP16))[0], feed)["y"]
    gap = np.abs(found - exact).max()
    assert 0 < gap < 0.01 * np.abs(exact).max()
    np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))


class TestGroups:
    def test_readers_of_one_tensor_are_in_one_group(self):
        groups = group_points(plan(prepared(CASES["residual"]()), settings()))
        together = [{point.node for point in group} for group in groups]
        assert any({"conv_1", "conv_2"} <= nodes for nodes in together)

    def test_users_of_one_weight_are_in_one_group(self):
        [group] = group_points(plan(prepared(CASES["shared_weight"]()), settings()))
        assert len(group) == 2

    def test_each_node_is_in_one_group(self):
        for name in QUANTIZED:
            found = plan(prepared(CASES[name]()), settings())
            nodes = [point.node for group in group_points(found) for point in group]
            assert sorted(nodes) == sorted(found.nodes)

    def test_groups_are_in_graph_order(self):
        model = prepared(embedding())
        order = [node_label(node) for node in model.graph.all_nodes()]
        firsts = [order.index(group[0].node) for group in group_points(plan(model, settings()))]
        assert firsts == sorted(firsts)


def test_other_ranges_are_fed():
    proto = conv_net()
    feed = {"x": normal(3, 3, 8, 8)}
    made, _ = simulated(proto, None)
    for amax in (0.5, 2.0):
        expected = run(lowered(proto, amax=amax), feed)["y"]
        np.testing.assert_allclose(run_simulated(made, feed, amax=amax)["y"], expected, rtol=1e-5, atol=1e-5)


def test_tensors_with_one_scale_have_one_input():
    proto = model(
        "(float[1,4,4,4] x) => (float[1,4,2,2] y, float[1,4,4,4] z) { m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) "
        "y = Conv(m, w) z = Conv(x, w) }",
        w=normal(4, 4, 1, 1),
    )  # fmt: skip
    loaded = prepared(proto)
    scales = scale_inputs(loaded, plan(loaded, settings()))
    assert set(scales) == {"x", "m"}
    assert scales["x"] is scales["m"]
    assert len(loaded.graph.inputs) == 2


@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_a_lowered_node_has_its_bias_corrected_and_no_other(operator):
    if operator == "Conv":
        proto = model("(float[2,16,4,4] x) => (float[2,16,4,4] y) { y = Conv(x, w) }", w=normal(16, 16, 1, 1))
        feed, spread = {"x": normal(2, 16, 4, 4)}, (16, 1, 1)
    else:
        proto = model("(float[2,16] x) => (float[2,16] y) { y = MatMul(x, w) }", w=normal(16, 16))
        feed, spread = {"x": normal(2, 16)}, (16,)
    shift = np.arange(16, dtype=np.float32)
    made = [simulated(proto, on, shifts={"y": shift})[0] for on in (None, ())]
    expected = (run(lowered(proto), feed)["y"] + shift.reshape(spread), run(proto, feed)["y"])
    for graph, wanted in zip(made, expected, strict=True):
        np.testing.assert_allclose(run_simulated(graph, feed)["y"], wanted, rtol=1e-5, atol=1e-5)
