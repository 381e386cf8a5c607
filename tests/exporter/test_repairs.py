"""Repaired models compute what they computed before they were spoilt: both run by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from models import model, normal, run, save
from onnx import TensorProto, helper, numpy_helper

from trtpipe.errors import InputError
from trtpipe.exporter.repairs import repair, settle_defaults
from trtpipe.preflight import digest_model

FEED = {"x": normal(4, 8)}
Spoil = Callable[[onnx.ModelProto], object]


def plain(opset: int = 17) -> onnx.ModelProto:
    return model(
        "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) r = Relu(h) y = Add(r, x) }", opset=opset, w=normal(8, 8)
    )


def swapped(proto: onnx.ModelProto) -> None:
    nodes = [proto.graph.node[i] for i in (2, 1, 0)]
    copies = onnx.GraphProto(node=nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(copies.node)


def with_body(proto: onnx.ModelProto, *, name: str = "inner", unsorted: bool = False, shadow: bool = False) -> None:
    """The sum is taken in a branch."""
    inner = "h" if shadow else "i"
    nodes = [helper.make_node("Relu", ["h"], [inner]), helper.make_node("Add", [inner, "x"], ["o"])]
    then = helper.make_graph(nodes[::-1] if unsorted else nodes, name, [], [info("o", [4, 8])])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "other", [], [info("n", [4, 8])])
    del proto.graph.node[1:]
    proto.graph.node.append(helper.make_node("Not", ["f"], ["c"]))
    proto.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other))
    proto.graph.node.insert(0, helper.make_node("IsNaN", ["s"], ["f"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(1, np.float32), "s"))


def info(name: str, shape: list[int] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def stated(proto: onnx.ModelProto, *values: onnx.ValueInfoProto) -> None:
    proto.graph.value_info.extend(values)


def opsets(proto: onnx.ModelProto, *given: tuple[str, int]) -> None:
    del proto.opset_import[:]
    proto.opset_import.extend(helper.make_opsetid(*each) for each in given)


def sparse(proto: onnx.ModelProto) -> None:
    """The constant of the sum, in coordinates; and one in a Constant node."""
    values = numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    places = numpy_helper.from_array(np.array([[0, 1], [3, 7]]), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 8]))
    flat = numpy_helper.from_array(np.array([1, 31]), "flat")
    minus = helper.make_sparse_tensor(numpy_helper.from_array(-np.ones(2, np.float32), ""), flat, [4, 8])
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["minus"], sparse_value=minus))
    proto.graph.node.insert(1, helper.make_node("Add", ["minus", "sparse"], ["zero"]))
    proto.graph.node[-1].input[0] = "sum"
    proto.graph.node.insert(4, helper.make_node("Add", ["r", "zero"], ["sum"]))


def of_function(proto: onnx.ModelProto) -> None:
    """The Relu is a function of the model's own, whose domain is not imported."""
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Positive", "mine"
    body = [helper.make_node("Relu", ["a"], ["b"])]
    proto.functions.append(helper.make_function("mine", "Positive", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))


#: Each leaves the sum of ``plain`` as it is.
SPOILS: dict[str, tuple[Spoil, str]] = {
    "output without a shape": (lambda p: p.graph.output[0].type.tensor_type.ClearField("shape"), "shape of output 'y'"),
    "output without a type": (lambda p: p.graph.output[0].ClearField("type"), "type of output 'y' was inferred: float"),
    "output of a wrong shape": (lambda p: p.graph.output[0].CopyFrom(info("y", [3])), "was dropped"),
    "output twice": (lambda p: p.graph.output.append(p.graph.output[0]), "output 'y' was listed twice"),
    "input twice": (lambda p: p.graph.input.append(p.graph.input[0]), "input 'x' was there twice"),
    "constant twice": (lambda p: p.graph.initializer.append(p.graph.initializer[0]), "constant 'w' was there twice"),
    "graph without a name": (lambda p: p.graph.ClearField("name"), "the graph had no name"),
    "body without a name": (lambda p: with_body(p, name=""), "a body had no name"),
    "nodes out of order": (swapped, "were sorted"),
    "nodes of a body out of order": (lambda p: with_body(p, unsorted=True), "were sorted"),
    "a name of the graph in a body": (lambda p: with_body(p, shadow=True), "names of the graph around it"),
    "shape stated wrong": (lambda p: stated(p, info("h", [7, 7])), "shape of h was dropped"),
    "shape stated twice": (lambda p: stated(p, info("h", [4, 8]), info("h", [9])), "stated twice of h"),
    "value stated twice": (lambda p: stated(p, info("h", [4, 8]), info("h", [4, 8])), "stated twice of h"),
    "output stated inside too": (lambda p: stated(p, info("y", [4, 8])), "stated twice of y"),
    "node names twice": (lambda p: [setattr(n, "name", "n") for n in p.graph.node], "several nodes had one name"),
    "no opset": (opsets, "no opset was stated"),
    "no opset of its own operators": (lambda p: opsets(p, ("com.microsoft", 1)), "no opset was stated"),
    "the long name too": (lambda p: opsets(p, ("", 17), ("ai.onnx", 17)), ""),
    "no version of the format": (lambda p: p.ClearField("ir_version"), "version of the format was 0"),
    "a version of the format to come": (lambda p: setattr(p, "ir_version", 99), "version of the format was 99"),
    "sparse constants": (sparse, "'sparse' was made dense"),
    "constants in an old format": (lambda p: setattr(p, "ir_version", 3), "version 4 was taken"),
    "constants in an old format, some listed": (
        lambda p: (setattr(p, "ir_version", 3), sparse(p), p.graph.input.append(info("w", [8, 8]))),
        "version 4 was taken",
    ),
    "a function of an unknown domain": (of_function, "no version of the domain 'mine' was stated"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_what_is_in_no_doubt_is_repaired(name: str, tmp_path) -> None:
    spoil, words = SPOILS[name]
    proto = plain()
    expected = run(plain(), FEED)["y"]
    spoil(proto)
    digest_model(save(proto, tmp_path / "given.onnx"))  # the preliminary check lets it pass
    notes = repair(proto)
    assert any(words in note for note in notes) if words else not notes
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_allclose(run(proto, FEED)["y"], expected, rtol=1e-6, atol=1e-6)
    assert [value.name for value in proto.graph.output] == ["y"]


def test_a_model_in_order_stays_as_it_is() -> None:
    proto = plain()
    before = proto.SerializeToString(deterministic=True)
    assert repair(proto) == []
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.graph.node[0].input.__setitem__(0, "y"),
        lambda p: p.graph.initializer.append(numpy_helper.from_array(normal(8, 8, seed=9), "w")),
        lambda p: p.graph.output[0].CopyFrom(info("y", [4, 8], TensorProto.INT64)),
    ],
    ids=["a cycle", "two constants of one name", "another type than its node makes"],
)
def test_what_is_in_doubt_is_refused(spoil: Spoil) -> None:
    proto = plain()
    spoil(proto)
    with pytest.raises(InputError):
        repair(proto)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.graph.node[0].input.__setitem__(0, "y"), "cycle"),
        (lambda p: p.graph.node[0].input.__setitem__(0, "nowhere"), "produced by no node"),
        (lambda p: p.graph.node[1].output.__setitem__(0, "h"), "produced twice|cycle"),
        (lambda p: stated(p, info("h", [4, 8]), info("h", [4, 8], TensorProto.INT64)), "two types, float and int64"),
        (lambda p: stated(p, info("h", [4, 8], TensorProto.INT64)), "of type float, and stated to be int64"),
        (lambda p: p.graph.input.append(info("w", [8, 8], TensorProto.DOUBLE)), "two types, double and float"),
        (lambda p: p.graph.input.append(info("x", [1], TensorProto.FLOAT)), "declares 'x' twice"),
        (lambda p: p.graph.ClearField("output"), "has no outputs"),
        (lambda p: opsets(p, ("", 17), ("ai.onnx", 18)), "two opsets, 17 and 18"),
        (lambda p: (opsets(p), setattr(p.graph.node[1], "op_type", "Softmax")), "on which depends what Softmax"),
    ],
)
def test_doubts_that_the_preliminary_check_finds(spoil: Spoil, words: str, tmp_path) -> None:
    proto = plain()
    spoil(proto)
    with pytest.raises(InputError, match=words):
        digest_model(save(proto, tmp_path / "given.onnx"))


class TestDeprecated:
    @pytest.mark.parametrize("opset", [18, 20])
    def test_group_normalization_of_groups(self, opset: int) -> None:
        proto = model(
            "(float[2,6,3,4] x) => (float[2,6,3,4] y) { y = GroupNormalization<num_groups=3, epsilon=0.01>(x, s, b) }",
            opset=opset, s=normal(3, seed=1), b=normal(3, seed=2),
        )  # fmt: skip
        x = normal(2, 6, 3, 4)
        groups = x.reshape(2, 3, -1).astype(np.float64)
        unit = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 0.01)
        expected = (unit * normal(3, seed=1)[:, None] + normal(3, seed=2)[:, None]).reshape(x.shape)
        assert "GroupNormalization" in repair(proto)[0]
        onnx.checker.check_model(proto, full_check=True)
        np.testing.assert_allclose(run(proto, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)

    def test_scatter(self) -> None:
        proto = model("(float[3,3] x) => (float[3,3] y) { y = Scatter<axis=1>(x, i, u) }", opset=13,
                      i=np.array([[0, 2]]), u=np.array([[5.0, 7.0]], np.float32))  # fmt: skip
        repair(proto)
        onnx.checker.check_model(proto)
        x = normal(3, 3)
        x2 = x.copy()
        x2[0, 0], x2[0, 2] = 5, 7
        np.testing.assert_array_equal(run(proto, {"x": x})["y"], x2)

    def test_upsample(self) -> None:
        proto = model("(float[1,1,2,2] x) => (float[1,1,4,4] y) { y = Upsample<mode=\"nearest\">(x, s) }", opset=13,
                      s=np.array([1, 1, 2, 2], np.float32))  # fmt: skip
        repair(proto)
        onnx.checker.check_model(proto)
        x = normal(1, 1, 2, 2)
        np.testing.assert_array_equal(run(proto, {"x": x})["y"], x.repeat(2, 2).repeat(2, 3))

    def test_the_new_group_normalization_stays(self) -> None:
        text = "(float[2,6,3] x) => (float[2,6,3] y) { y = GroupNormalization<num_groups=3>(x, s, b) }"
        assert repair(model(text, opset=21, ir_version=10, s=normal(6), b=normal(6))) == []


class TestConstantBranches:
    def given(self, count: int, *, taken: bool) -> onnx.ModelProto:
        nodes, last = [], "x"
        for i in range(count):
            branches = {
                name: helper.make_graph(
                    [helper.make_node(op, [last], ["t"]), helper.make_node("Neg", ["t"], ["u"])], name, [],
                    [info("u", [4, 8])],
                )
                for name, op in (("then_branch", "Relu"), ("else_branch", "Abs"))
            }  # fmt: skip
            nodes.append(helper.make_node("If", ["c"], [f"v{i}"], f"if{i}", **branches))
            last = f"v{i}"
        nodes.append(helper.make_node("Identity", [last], ["y"]))
        graph = helper.make_graph(nodes, "g", [info("x", [4, 8])], [info("y", [4, 8])],
                                  [numpy_helper.from_array(np.array(taken), "c")])  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    @pytest.mark.parametrize("taken", [True, False])
    def test_the_branch_that_is_taken_is_left(self, taken: bool) -> None:
        proto = self.given(3, taken=taken)
        expected = run(proto, FEED)["y"]
        repair(proto)
        assert "If" not in [node.op_type for node in proto.graph.node]
        onnx.checker.check_model(proto)
        np.testing.assert_array_equal(run(proto, FEED)["y"], expected)

    def test_one_that_lies_in_another_and_one_that_gives_a_value_from_outside(self) -> None:
        inner = helper.make_graph([], "i", [], [info("x", [4, 8])])
        other = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "o", [], [info("n", [4, 8])])
        outer = helper.make_graph([helper.make_node("If", ["c"], ["m"], then_branch=inner, else_branch=other)], "p", [],
                                  [info("m", [4, 8])])  # fmt: skip
        proto = self.given(1, taken=True)
        del proto.graph.node[:]
        proto.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=outer, else_branch=other))
        repair(proto)
        onnx.checker.check_model(proto)
        np.testing.assert_array_equal(run(proto, FEED)["y"], FEED["x"])

    def test_a_condition_that_is_an_input_stays(self) -> None:
        proto = self.given(1, taken=True)
        proto.graph.input.append(info("c", [], TensorProto.BOOL))
        repair(proto)
        assert "If" in [node.op_type for node in proto.graph.node]


class TestDefaults:
    def listed(self, *names: str, ir_version: int = 8) -> onnx.ModelProto:
        proto = model("(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) y = Mul(h, k) }", w=normal(8, 8),
                      k=np.ones(1, np.float32))  # fmt: skip
        proto.ir_version = ir_version
        for tensor in proto.graph.initializer:
            if tensor.name in names:
                proto.graph.input.append(info(tensor.name, list(tensor.dims)))
        return proto

    def sides(self, proto: onnx.ModelProto) -> tuple[list[str], list[str]]:
        constants = [tensor.name for tensor in proto.graph.initializer]
        return [value.name for value in proto.graph.input if value.name not in constants], sorted(constants)

    def test_an_input_with_a_default_stays_an_input(self) -> None:
        proto = self.listed("k")
        (note,) = settle_defaults(proto, ())
        assert "'k' has a default value" in note
        assert self.sides(proto) == (["x", "k"], ["w"])

    def test_one_that_is_to_be_frozen_becomes_a_constant(self) -> None:
        proto = self.listed("k")
        (note,) = settle_defaults(proto, ("k*",))
        assert "made a constant" in note
        assert self.sides(proto) == (["x"], ["k", "w"])
        assert [value.name for value in proto.graph.input] == ["x"]

    def test_the_only_input_stays_one(self) -> None:
        proto = model("(float[2] x) => (float[2] y) { y = Relu(x) }")
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "x"))
        assert list(settle_defaults(proto, ()))
        assert self.sides(proto) == (["x"], [])

    def test_weights_that_an_old_format_had_to_list_are_constants(self) -> None:
        proto = self.listed("w", "k", ir_version=3)
        assert list(settle_defaults(proto, ())) == []
        assert self.sides(proto) == (["x"], ["k", "w"])

    def test_so_are_those_of_an_exporter_that_lists_all_of_them(self) -> None:
        proto = model("(float[1,2,8] x) => (float[1,4,6] y) { y = Conv(x, w, b) }", w=normal(4, 2, 3), b=normal(4))
        proto.graph.input.extend([info("w", [4, 2, 3]), info("b", [4])])
        assert list(settle_defaults(proto, ())) == []
        assert self.sides(proto) == (["x"], ["b", "w"])
