"""Graphs with plug-in nodes: what comes before them is cut off, can run, and has the same outputs in every form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, save

from trtpipe.backends.onnxruntime import opened_here
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.plugins import cut_plugins, plugin_nodes

GRAPH = (
    "(float[1,4] x) => (float[1,4] side, float[1,4] y)"
    " { a = MatMul(x, w) b = Relu(a) side = Neg(b) p, q = Foo(a, b, k) r = Add(p, b) y = Mul(r, q) }"
)


def with_plugin(op: str = "Pick_TRT", domain: str = "vision") -> onnx.ModelProto:
    proto = model(GRAPH, opset=18, w=normal(4, 4), k=np.float32(2))
    node = next(node for node in proto.graph.node if node.op_type == "Foo")
    node.op_type, node.domain, node.name = op, domain, "pick"
    if domain:
        proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return proto


def loaded(proto: onnx.ModelProto) -> ir.Model:
    found = ir.serde.deserialize_model(proto)
    run_passes(found, [InferTypes()])
    return found


@pytest.mark.parametrize(("op", "domain"), [("Pick_TRT", "vision"), ("Pick_TRT", ""), ("Pick", "own.plugins")])
def test_what_the_plug_in_reads_becomes_an_output(op, domain):
    cut = loaded(with_plugin(op, domain))
    assert cut_plugins(cut) == (f"pick ({op})",)
    assert [value.name for value in cut.graph.outputs] == ["side", "p/input_0", "p/input_1", "p/input_2"]
    assert {node.op_type for node in cut.graph} == {"MatMul", "Relu", "Neg", "Identity"}


def test_other_graphs_stay():
    plain = loaded(model("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }"))
    assert cut_plugins(plain) == ()
    assert [node.op_type for node in plain.graph] == ["Relu"]


@pytest.mark.parametrize(("op", "domain"), [
    ("Gelu", "com.microsoft"), ("TRT_FP8QuantizeLinear", "trt"), ("Scaler", "ai.onnx.ml"), ("Relu", "ai.onnx"),
])  # fmt: skip
def test_operators_that_are_no_plug_ins(op, domain):
    assert plugin_nodes(loaded(with_plugin(op, domain))) == ()


def test_the_models_own_functions_are_none():
    proto = with_plugin("Pick", "own")
    body = [onnx.helper.make_node("Add", ["a", "k"], ["p"]), onnx.helper.make_node("Add", ["b", "k"], ["q"])]
    proto.functions.append(
        onnx.helper.make_function("own", "Pick", ["a", "b", "k"], ["p", "q"], body, [onnx.helper.make_opsetid("", 18)])
    )
    assert plugin_nodes(loaded(proto)) == ()


def test_a_plug_in_in_a_branch_takes_the_branch_with_it():
    proto = model(
        "(float[1,4] x, bool c) => (float[1,4] y) { a = Neg(x) y = If(c) <then_branch = t () => (float[1,4] f)"
        " { f = Odd(a) }, else_branch = e () => (float[1,4] g) { g = Relu(a) }> }"
    )
    proto.graph.node[1].attribute[0].g.node[0].domain = "vision"
    proto.graph.node[1].attribute[0].g.node[0].name = "odd"
    cut = loaded(proto)
    assert cut_plugins(cut) == ("odd (Odd)",)
    assert {node.op_type for node in cut.graph} == {"Neg", "Identity"}
    assert all(value.name.startswith("y/input_") for value in cut.graph.outputs)


def test_the_reference_runner_runs_what_comes_before(tmp_path):
    proto = with_plugin()
    x = normal(1, 4)
    a = x @ onnx.numpy_helper.to_array(proto.graph.initializer[0])
    with opened_here(save(proto, tmp_path / "m.onnx"), 1) as runner:
        found = runner.infer({"x": x})
    np.testing.assert_allclose(found["p/input_0"], a, rtol=1e-5)
    np.testing.assert_allclose(found["side"], -np.maximum(a, 0), rtol=1e-5)
    assert list(found) == ["side", "p/input_0", "p/input_1", "p/input_2"]
    assert found["p/input_2"] == 2


def test_a_constant_operand_is_an_output_in_every_form():
    """As an initializer, by a Constant, and computed from sizes that are known."""
    forms = [
        "(float[1,4] x) => (float[1,4] y) { b = Relu(x) k = Identity(c) y = Foo(b, k) }",
        "(float[1,4] x) => (float[1,4] y) { b = Relu(x) k = Constant<value_float=2.0>() y = Foo(b, k) }",
        "(float[1,4] x) => (float[1,4] y) { b = Relu(x) y = Foo(b, c) }",
        "(float[1,4] x) => (float[1,4] y) { b = Relu(x) s = Shape(x) k = Cast<to=1>(s) y = Foo(b, k) }",
    ]
    for form in forms:
        proto = model(form, opset=18, c=np.float32(2))
        [node] = [node for node in proto.graph.node if node.op_type == "Foo"]
        node.op_type = "Pick_TRT"
        cut = loaded(proto)
        assert cut_plugins(cut)
        assert [value.name for value in cut.graph.outputs] == ["y/input_0", "y/input_1"]


def test_a_plug_in_that_nothing_reads_is_dropped():
    proto = model("(float[1,4] x) => (float[1,4] y) { y = Relu(x) z = Foo(y) }", opset=18)
    proto.graph.node[1].op_type = "Pick_TRT"
    cut = loaded(proto)
    assert len(cut_plugins(cut)) == 1
    assert [value.name for value in cut.graph.outputs] == ["y"]
