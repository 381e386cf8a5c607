from __future__ import annotations

import onnx
import pytest
from models import model, normal, save

from trtpipe.backends.trt.bisect import with_failing_node
from trtpipe.backends.trt.error_guide import advice_for
from trtpipe.errors import BuildError, WorkerCrashed

CHAIN = model(
    "(float[4] x) => (float[4] y, float[4] z) { a = Relu(x) b = Neg(a) c = Tanh(b) d = Sigmoid(c) z = Exp(a) "
    "y = Add(d, w) }",
    w=normal(4),
)
BRANCH = model(
    "(float[4] x, bool k) => (float[4] y) { a = Relu(x) b = Neg(x) y = If(k) <"
    "then_branch = t () => (float[4] p) { p = Tanh(a) }, else_branch = e () => (float[4] q) { q = Sigmoid(b) }> }"
)


class Builder:
    """Fails, with a number of its own each time, on graphs that hold an operator."""

    def __init__(self, operator: str, words: str = "CHECK failed at") -> None:
        self.operator = operator
        self.words = words
        self.tried: list[list[str]] = []

    def __call__(self, path) -> None:
        proto = onnx.load(path)
        operators = [node.op_type for node in proto.graph.node]
        self.tried.append(operators)
        if self.operator in operators:
            raise BuildError(f"{path.name}: {self.words} {len(self.tried)}", "change it")


def bisect(builder, proto, tmp_path, message="m.onnx: CHECK failed at 4711"):
    workdir = tmp_path / "work"
    workdir.mkdir()
    error = with_failing_node(
        BuildError(message, "change it"), save(proto, tmp_path / "m.onnx"), builder, workdir, "tensorrt-rtx"
    )
    assert isinstance(error, BuildError)
    assert error.remedy == "change it"
    assert list(workdir.iterdir()) == []
    return error.message


@pytest.mark.parametrize(("proto", "node"), [(CHAIN, node) for node in CHAIN.graph.node])
def test_the_failing_node_is_found(proto, node, tmp_path):
    builder = Builder(node.op_type)
    message = bisect(builder, proto, tmp_path)
    assert message == f"m.onnx: CHECK failed at 4711; the failing node is {node.name!r} ({node.op_type})"
    assert len(builder.tried) <= 3  # halves of six


def test_a_node_in_a_branch_is_found_and_the_advice_is_to_decide_the_branch(tmp_path):
    proto = onnx.ModelProto()
    proto.CopyFrom(BRANCH)
    proto.graph.node[2].name = "If_0"
    proto.graph.node[2].attribute[0].g.node[0].name = "If_0_then/tanh"
    unknown = advice_for("some words that no entry has")
    error = with_failing_node(
        BuildError("m.onnx: node 'If_0_then/tanh': 5 and 3 dimensions", unknown.remedy),
        save(proto, tmp_path / "m.onnx"), Builder("Tanh"), tmp_path, "tensorrt-rtx",
    )  # fmt: skip
    assert "(Tanh" in error.message or "operator Tanh" in error.message
    assert "branch of the If 'If_0'" in error.remedy
    assert "--shapes" in error.remedy


def test_what_bodies_read_counts(tmp_path):
    builder = Builder("Neg")
    assert "the failing node is 'neg_1' (Neg)" in bisect(builder, BRANCH, tmp_path)


def test_another_failure_of_a_partial_graph_does_not_count(tmp_path):
    builder = Builder("Neg", words="something else")
    assert "the failing node is 'add_5' (Add)" in bisect(builder, CHAIN, tmp_path)


@pytest.mark.parametrize(
    ("message", "addition"),
    [
        ("m.onnx: node 'tanh_2' (Tanh): not so", ""),
        ("m.onnx: no kernel for tanh_2_OutputLayer", "; node 'tanh_2' is of operator Tanh"),
    ],
)
def test_a_message_that_names_a_node_needs_no_search(message, addition, tmp_path):
    builder = Builder("Tanh")
    assert bisect(builder, CHAIN, tmp_path, message) == message + addition
    assert builder.tried == []


def test_the_node_that_crashes_the_builder_is_found(tmp_path):
    """A crash says little and never the same: that it crashes again is what counts."""
    tried = []

    def crash(path):
        operators = [node.op_type for node in onnx.load(path).graph.node]
        tried.append(operators)
        if "Tanh" in operators:
            raise WorkerCrashed(f"the worker process crashed (SIGSEGV); its last words: {len(tried)}", "check it", "b")

    (tmp_path / "work").mkdir()
    first = WorkerCrashed("the worker process crashed (SIGSEGV) while building", "check it", "building")
    error = with_failing_node(first, save(CHAIN, tmp_path / "m.onnx"), crash, tmp_path / "work", "tensorrt-rtx")
    assert isinstance(error, WorkerCrashed)
    assert error.message.endswith("; the failing node is 'tanh_2' (Tanh)")
    assert error.phase == "building"
