from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import model, normal, run
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases

from trtpipe.dynamic.walk import Walker

SIZES = "sh = Shape(x) i = Constant<value = int64[1] {1}>() n = Gather(sh, i)"


def walk(graph: str, *, contents=(), opset: int = 20, weights=(), **shapes):
    return Walker(model(graph, opset=opset, **dict(weights))).misfit(shapes, dict(contents))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_shape_arithmetic_is_computed(size):
    """What onnxruntime makes of a reshape to a computed shape, the walk makes of it too."""
    graph = model(
        f"(float[B,S] x) => (float[R,C] y) {{ {SIZES} two = Constant<value = int64[1] {{2}}>() "
        "m = Mul(n, two) last = Constant<value = int64[1] {-1}>() to = Concat<axis=0>(m, last) y = Reshape(x, to) }"
    )
    fits = Walker(graph).misfit({"x": (6, size)}, {}) is None
    assert fits
    assert run(graph, {"x": np.zeros((6, size), np.float32)})["y"].shape == (2 * size, 3)
    odd = Walker(graph).misfit({"x": (5, size)}, {})
    assert odd is not None
    assert (odd.node, odd.op) == ("reshape_7", "Reshape")
    with pytest.raises(Exception, match="reshape"):
        run(graph, {"x": np.zeros((5, size), np.float32)})


def test_values_of_the_users_stay_unknown():
    graph = "(int64[N] x) => (float[N,4] y) { y = Gather(table, x) }"
    assert walk(graph, weights={"table": normal(3, 4)}, x=(1000,)) is None


def test_values_that_are_known_count():
    graph = "(float[N] x, int64[2] to) => (float[A,B] y) { y = Reshape(x, to) }"
    assert walk(graph, x=(6,), contents={"to": np.array([2, 3])}) is None
    found = walk(graph, x=(6,), contents={"to": np.array([2, 4])})
    assert found is not None
    assert found.reason == "cannot make 2x4 of 6"


@pytest.mark.parametrize(("length", "fits"), [(8, True), (9, False)])
def test_positions_beyond_their_table(length, fits):
    positions = "zero = Constant<value = int64 {0}>() one = Constant<value = int64 {1}>() s = Squeeze(n)"
    graph = model(
        f"(float[B,S,4] x) => (float[B,S,4] y) {{ {SIZES} {positions} p = Range(zero, s, one) "
        "e = Gather(table, p) y = Add(x, e) }",
        table=normal(8, 4),
    )
    found = Walker(graph).misfit({"x": (2, length, 4)}, {})
    assert (found is None) is fits
    feed = {"x": np.zeros((2, length, 4), np.float32)}
    if found is None:
        run(graph, feed)
    else:
        assert found.reason == "reads entry 8 of a table of 8"
        with pytest.raises(Exception, match="out of data bounds"):
            run(graph, feed)


@pytest.mark.parametrize(
    ("graph", "weights", "shapes", "words"),
    [
        ("(float[A,4] x, float[B,4] z) => (float[A,4] y) { y = Add(x, z) }", {}, {"x": (2, 4), "z": (3, 4)},
         "2x4 and 3x4"),
        ("(float[A,4] x, float[B,5] z) => (float[A,4] y) { y = Concat<axis=0>(x, z) }", {}, {"x": (2, 4), "z": (3, 5)},
         "2x4 and 3x5"),
        ("(float[A,K] x) => (float[A,4] y) { y = MatMul(x, w) }", {"w": normal(8, 4)}, {"x": (2, 7)}, "2x7 and 8x4"),
        ("(float[A,K] x) => (float[A,4] y) { y = Gemm(x, w) }", {"w": normal(8, 4)}, {"x": (2, 7)}, "2x7 and 8x4"),
        ("(float[1,3,H,9] x) => (float[1,4,A,B] y) { y = Conv(x, w) }", {"w": normal(4, 3, 7, 7)}, {"x": (1, 3, 5, 9)},
         "slides over 1x3x5x9"),
    ],
)  # fmt: skip
def test_operators_that_do_not_take_it(graph, weights, shapes, words):
    """Each of these fails in onnxruntime at run time too."""
    found = walk(graph, weights=weights, **shapes)
    assert found is not None
    assert words in found.reason
    proto = model(graph, **weights)
    with pytest.raises(Exception, match=r"."):
        run(proto, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


BRANCH = """(float[A,4] x, bool c) => (float[A,4] y) {{ {condition} y = If(k) <
  then_branch = t () => (float[C,4] a) {{ a = Add(x, w) }},
  else_branch = e () => (float[D,4] b) {{ b = Relu(x) }} > }}"""


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        ("k = Identity(c)", True),  # nobody knows whether it is taken
        ("k = Constant<value = bool {1}>()", False),
        ("k = Constant<value = bool {0}>()", True),
    ],
)
def test_a_branch_counts_if_it_is_taken(condition, fits):
    found = walk(BRANCH.format(condition=condition), weights={"w": normal(3, 4)}, x=(5, 4))
    assert (found is None) is fits
    assert walk(BRANCH.format(condition=condition), weights={"w": normal(3, 4)}, x=(3, 4)) is None


def test_what_branches_agree_upon_goes_on():
    graph = """(float[A,4] x, bool c) => (float[A,4] z) { y = If(c) <
      then_branch = t () => (float[C,4] a) { a = Add(x, w) }, else_branch = e () => (float[D,4] b) { b = Relu(x) } >
      z = Add(y, v) }"""
    assert walk(graph, weights={"w": normal(1, 4), "v": normal(2, 4)}, x=(2, 4)) is None
    found = walk(graph, weights={"w": normal(1, 4), "v": normal(2, 4)}, x=(5, 4))
    assert found is not None
    assert found.reason == "does not take 5x4 and 2x4"


def test_functions_of_the_model_are_looked_into():
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Add", ["a", "b"], ["c"], name="inner")]
    function = helper.make_function("own", "F", ["a", "b"], ["c"], body, opsets[:1])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [name.upper(), 4]) for name in "xzy"]
    graph = helper.make_graph([helper.make_node("F", ["x", "z"], ["y"], domain="own")], "g", ends[:2], ends[2:])
    walker = Walker(helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10))
    assert walker.misfit({"x": (2, 4), "z": (2, 4)}, {}) is None
    assert walker.misfit({"x": (2, 4), "z": (3, 4)}, {}) is not None


def test_operators_nobody_knows_are_passed_over():
    node = helper.make_node("Mystery", ["x"], ["m"], domain="own")
    add = helper.make_node("Add", ["m", "x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    proto = helper.make_model(helper.make_graph([node, add], "g", ends[:1], ends[1:]), opset_imports=opsets)
    assert Walker(proto).misfit({"x": (3,)}, {}) is None


def test_random_numbers_are_not_computed():
    graph = "(float[N] x) => (float[N] y) { r = RandomNormal<shape=[3]>() y = Add(x, r) }"
    assert walk(graph, x=(3,)) is None
    assert walk(graph, x=(4,)) is not None


def test_large_external_weights_stay_on_disk(tmp_path):
    proto = model("(float[A,K] x) => (float[A,4] y) { y = MatMul(x, w) }", w=normal(800, 4))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    walker = Walker(onnx.load(tmp_path / "m.onnx", load_external_data=False))
    assert walker.misfit({"x": (2, 800)}, {}) is None
    assert walker.misfit({"x": (2, 801)}, {}) is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the cases' own casts overflow on purpose
def test_every_operator_is_taken_at_its_own_test_data():
    """ONNX's node tests all work as they are; of Range, the reference takes more than the standard allows."""
    cases = [case for case in collect_testcases() if case.model is not None]
    found = {case.name: Walker(case.model).misfit({}, {}) for case in cases}
    assert len(found) > 1500
    assert {name for name, misfit in found.items() if misfit is not None and misfit.op != "Range"} == set()
