from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, run

from trtpipe.passes.clean_up import PLAIN_FORM
from trtpipe.passes.resolve_branches import ResolveBranches

#: What PyTorch's exporters write for ``x.squeeze(1)``.
SQUEEZE = (
    "s = Shape({x}) n = Gather(s, one) c = Equal(n, one) "
    "y = If(c) <then_branch = t () => (float[?,?] a) {{ k = Constant<value_ints=[1]>() a = Squeeze({x}, k) }}, "
    "else_branch = e () => (float[?,?,?] b) {{ b = Identity({x}) }}> "
)


def ops(proto):
    return [node.op_type for node in proto.graph.node if node.op_type != "Constant"]


def same(found, proto, feed):
    results = run(proto, feed)
    for name, value in run(found, feed).items():
        np.testing.assert_array_equal(value, results[name])


def squeezing(dim):
    return model(f"(float[N,{dim},4] x) => (float z) {{ {SQUEEZE.format(x='x')} z = ReduceSum<keepdims=0>(y) }}",
                 one=np.array(1))  # fmt: skip


@pytest.mark.parametrize(("dim", "left"), [(1, ["Squeeze", "ReduceSum"]), (3, ["ReduceSum"])])
def test_a_fixed_size_resolves_it(apply, dim, left):
    proto = squeezing(dim)
    found, _ = apply(proto, ResolveBranches())
    assert ops(found) == left
    same(found, squeezing("M"), {"x": normal(2, dim, 4)})


@pytest.mark.parametrize("fixed", [{}, {"x": (None, None, 4)}, {"other": (None, 1, 4)}, {"x": (1,)}])
def test_a_size_that_varies_does_not(apply, fixed):
    proto = squeezing("M")
    assert ops(apply(proto, ResolveBranches(fixed))[0]) == ops(proto)


def test_a_size_that_every_profile_fixes_does_and_the_input_stays_as_it_was(apply):
    proto = squeezing("M")
    found, _ = apply(proto, ResolveBranches({"x": (None, 1, 4)}))
    assert ops(found) == ["Squeeze", "ReduceSum"]
    assert found.graph.input == proto.graph.input
    same(found, proto, {"x": normal(2, 1, 4)})


def test_a_shape_that_the_file_states_for_a_tensor_inside_is_not_used(apply):
    proto = model(f"(float[N,M,4] x) => (float z) {{h = Relu(x) {SQUEEZE.format(x='h')} z = ReduceSum<keepdims=0>(y)}}",
                  one=np.array(1))  # fmt: skip
    claim = onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [None, 1, 4])
    proto.graph.value_info.append(claim)
    assert "If" in ops(apply(proto, ResolveBranches())[0])


def test_outer_branches_are_resolved_first(apply):
    """The rank of what the first gives decides the second, inside a third that values decide."""
    proto = model(
        "(float[N,1,4] x, bool p) => (float[?,4] z) { z = If(p) <then_branch = t () => (float[?,?] out) {"
        + SQUEEZE.format(x="x").replace("one", "uno").replace("s = Shape", "uno = Constant<value_int=1>() s = Shape")
        + "r = Shape(y) d = Size(r) two = Constant<value_int=2>() q = Equal(d, two)"
        "out = If(q) <then_branch = tt () => (float[?,?] a2) { a2 = Neg(y) }, "
        "else_branch = te () => (float[?,?] b2) { b2 = ReduceSum<keepdims=0>(y, uno) }> }, "
        "else_branch = e () => (float[?,?] other) { m = Constant<value_ints=[1]>() other = Squeeze(x, m) }> }"
    )
    found, _ = apply(proto, *PLAIN_FORM, ResolveBranches())
    assert ops(found) == ["If"]
    inside = next(attribute.g for attribute in found.graph.node[0].attribute if attribute.name == "then_branch")
    assert [node.op_type for node in inside.node] == ["Squeeze", "Neg", "Identity"]
    for p in (True, False):
        same(found, proto, {"x": normal(2, 1, 4), "p": np.array(p)})


def test_what_the_known_sizes_contradict_in_a_branch_of_values_stays_as_it_is(apply):
    """The else branch is for other sizes: with these, its Transpose would be of two axes and have three to permute."""
    inner = SQUEEZE.replace("one", "uno").replace("s = Shape", "uno = Constant<value_int=1>() s = Shape").format(x="x")
    other = inner
    for name in ("uno", "s", "n", "c", "y", "k", "a", "b"):
        other = re.sub(rf"\b{name}\b", f"{name}2", other)
    proto = model(
        "(float[N,M,4] x, bool p) => (float[?,?] z) { z = If(p) "
        f"<then_branch = t () => (float[?,?] out) {{ {inner} axes = Constant<value_ints=[0]>() "
        "out = ReduceSum(y, axes) }, "
        f"else_branch = e () => (float[?,?] out2) {{ {other} turned = Transpose<perm=[0, 2, 1]>(y2) "
        "axes2 = Constant<value_ints=[1]>() out2 = ReduceSum<keepdims=0>(turned, axes2) }> }"
    )
    found, _ = apply(proto, *PLAIN_FORM, ResolveBranches({"x": (None, 1, 4)}))
    [outer] = [node for node in found.graph.node if node.op_type == "If"]
    inside = {each.name: [node.op_type for node in each.g.node] for each in outer.attribute}
    assert "If" not in inside["then_branch"]
    assert "Squeeze" in inside["then_branch"]
    assert "If" in inside["else_branch"]
    same(found, proto, {"x": normal(2, 1, 4), "p": np.array(True)})
    same(found, proto, {"x": normal(2, 3, 4), "p": np.array(False)})


def test_what_a_loop_carries_may_grow_whatever_its_first_shape(apply):
    proto = model(
        "(float[1,4] x, int64 trips, bool go) => (float[?,4] y) { y = Loop(trips, go, x) <body = b "
        "(int64 i, bool c, float[1,4] v) => (bool d, float[?,4] w) { d = Identity(c) g = Concat<axis=0>(v, v) "
        "s = Shape(v) n = Gather(s, zero) q = Equal(n, one) "
        "w = If(q) <then_branch = t () => (float[?,4] a) { a = Neg(g) }, "
        "else_branch = e () => (float[?,4] o) { o = Abs(g) }> }> }",
        one=np.array(1), zero=np.array(0),
    )  # fmt: skip
    found, _ = apply(proto, ResolveBranches())
    body = found.graph.node[0].attribute[0].g
    assert "If" in [node.op_type for node in body.node]
    assert found.graph == apply(proto)[0].graph


RATES = (
    "(float[N,4] x, int64 rate) => (float[N,4] z) { c = Equal(rate, sixteen) "
    "z = If(c) <then_branch = t () => (float[N,4] a) { a = Add(x, x) }, "
    "else_branch = e () => (float[N,4] b) { b = Neg(x) }> }"
)


def test_a_value_that_every_profile_fixes_resolves_it_and_its_input_stays(apply):
    proto = model(RATES, sixteen=np.array(16000))
    assert ops(apply(proto, ResolveBranches())[0]) == ["Equal", "If"]
    found, _ = apply(proto, ResolveBranches({"rate": (16000,)}))
    assert ops(found) == ["Add", "Identity"]
    assert [value.name for value in found.graph.input] == ["x", "rate"]
    same(found, proto, {"x": normal(2, 4), "rate": np.array(16000)})
    other, _ = apply(proto, ResolveBranches({"rate": (8000,)}))
    same(other, proto, {"x": normal(2, 4), "rate": np.array(8000)})


def test_an_input_without_a_type_is_left_alone():
    proto = model(RATES, sixteen=np.array(16000))
    proto.graph.input[1].type.tensor_type.elem_type = 0
    assert not ResolveBranches({"rate": (16000,)}).call(ir.serde.deserialize_model(proto)).modified


def test_results_that_are_constants_or_given_twice(apply):
    proto = model(
        "(float[2] x) => (float[2] y, float[2] z, float[2] w) { s = Shape(x) n = Size(s) c = Equal(n, one) "
        "y, z, w = If(c) <then_branch = t () => (float[2] a, float[2] a, float[2] k) "
        "{ a = Neg(x) k = Constant<value_floats=[1.0, 2.0]>() }, "
        "else_branch = e () => (float[2] p, float[2] q, float[2] r) { p = Abs(x) q = Abs(x) r = Abs(x) }> }",
        one=np.array(1),
    )  # fmt: skip
    found, _ = apply(proto, ResolveBranches())
    assert "If" not in ops(found)
    x = normal(2)
    assert {name: value.tolist() for name, value in run(found, {"x": x}).items()} == {
        "y": (-x).tolist(), "z": (-x).tolist(), "w": [1, 2],
    }  # fmt: skip


def test_a_model_without_branches_is_not_touched(apply):
    proto = model("(float[N,4] x) => (int64[2] y) { y = Shape(x) }")
    assert ops(apply(proto, ResolveBranches({"x": (2, 4)}))[0]) == ["Shape"]
