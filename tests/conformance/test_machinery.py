"""The judge of the node tests must be able to say no."""

from __future__ import annotations

import faulthandler
import os
import time
from dataclasses import replace

import conformance
import numpy as np
import onnx
import process_pool
import pytest
from conformance_cases import Case, parameters
from conformance_run import TOLERANCE, Outcome, difference, run_case, tells
from models import model, normal

from trtpipe.stages.lower import Lower


def case(proto: onnx.ModelProto, feed, name: str = "test_it", **expected) -> Case:
    operators = tuple(dict.fromkeys(node.op_type for node in proto.graph.node))
    return Case(name, proto, feed, expected, operators, random=False)


RELU = model("(float[2,4] x) => (float[2,4] y) { y = Relu(x) }")


@pytest.mark.parametrize(
    ("graph", "names"),
    [
        ("(float[2,4] x, int64[1] a) => (float[n] y) { y = ReduceSum(x, a) }", {"a"}),
        ("(float[1,1,4,4] x, float[1,1,3,3] w, float[1] b) => (float[n] y) { y = Conv(x, w, b) }", {"w", "b"}),
        ("(float[2,4] x, float[2,4] b) => (float[2,4] y) { y = Add(x, b) }", set()),
        (
            "(float[2,4] x, int64[2] s, bool c) => (float[n] y) { y = If(c) <then_branch = t () => (float[n] p) "
            "{ p = Reshape(x, s) }, else_branch = e () => (float[n] q) { q = Relu(x) }> }",
            {"s"},
        ),
    ],
)
def test_parameters(graph, names):
    assert parameters(model(graph)) == names


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("wanted", "found", "error", "reason"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0, ""),
        ([1.0, -4.0], [1.0, -3.0], 0.25, ""),
        ([NAN, INF, 2.0], [NAN, INF, 2.5], 0.25, ""),
        ([INF, 2.0], [3.0, 2.0], 0, "other infinities or NaN"),
        ([1.0, 2.0], [NAN, 2.0], 0, "other infinities or NaN"),
        ([0.0, 0.0], [0.0, 1e-4], 0.1, ""),  # nothing is measured against zero
        ([1.0, 2.0], [[1.0, 2.0]], 0, "has shape"),
        ([True, False], [True, True], 1.0, ""),
    ],
)
def test_difference(wanted, found, error, reason):
    measured, words = difference({"y": np.asarray(wanted)}, {"y": np.asarray(found)})
    assert measured == pytest.approx(error)
    assert reason in words
    assert bool(reason) is bool(words)


def test_a_missing_output_is_a_difference():
    assert "missing" in difference({"y": np.zeros(2)}, {})[1]


@pytest.mark.parametrize(
    ("message", "enough"),
    [
        ("m.onnx: node 'relu_0' (Relu): this operator is not supported", True),
        ("m.onnx: no kernel for Relu_0_12", True),
        ("m.onnx: input 'x' is text", True),
        ("m.onnx: cannot be parsed: false", False),
        ("m.onnx: node (Relu): false", False),
        ("m.onnx: CHECK failed", False),
    ],
)
def test_what_a_refusal_must_tell(message, enough):
    assert tells(message, case(RELU, {})) is enough


def test_a_right_one():
    pytest.importorskip("tensorrt_rtx")
    proto = model("(float[4,8] x) => (float[4,8] y) { y = MatMul(x, w) }", w=normal(8, 8))
    for outcome in run_case(case(proto, {"x": normal(4, 8)}), ("fp16", "int8")):
        assert (outcome.outcome, outcome.built, outcome.lowered) == ("right", True, 1)
        assert 0 < outcome.error < TOLERANCE[outcome.precision]


def test_a_wrong_one(monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    lower = Lower.run

    def spoil(self, *args):
        draft = lower(self, *args)
        proto = onnx.load(draft.path)
        proto.graph.node[-1].op_type = "Neg"
        onnx.save(proto, draft.path)
        return draft

    monkeypatch.setattr(Lower, "run", spoil)
    [outcome] = run_case(case(RELU, {"x": normal(2, 4)}), ["int8"])
    assert (outcome.outcome, outcome.stage) == ("wrong", "lower")


def test_an_untyped_one(monkeypatch):
    def explode(self, *args):
        raise KeyError("nobody expects this")

    monkeypatch.setattr(Lower, "run", explode)
    [outcome] = run_case(case(RELU, {"x": normal(2, 4)}), ["int8"])
    assert (outcome.outcome, outcome.stage) == ("untyped", "lower")
    assert "nobody expects this" in outcome.reason


def test_a_refused_one():
    proto = model("(string[2] x) => (string[2] y) { y = Identity(x) }")
    [outcome] = run_case(case(proto, {"x": np.array(["a", "b"], object)}), ["int8"])
    assert (outcome.outcome, outcome.stage) == ("refused", "export")
    assert "input 'x' is text" in outcome.reason


def test_a_crash_and_a_hang_cost_one_test_each(monkeypatch):
    def pretend(each, precisions, target="sm89"):
        if each.name == "test_crash":
            faulthandler.disable()  # its account of this crash would look like one of the suite's own
            os.abort()
        if each.name == "test_hang":
            time.sleep(60)
        return [Outcome(each.name, precision, "right") for precision in precisions]

    monkeypatch.setattr(conformance, "run_case", pretend)
    names = ["test_a", "test_crash", "test_b", "test_hang", "test_c"]
    cases = [case(RELU, {}, name) for name in names]
    job = replace(conformance.conformance_job(cases, ["fp16", "int8"]), limit=1.0)
    outcomes = [each for found in process_pool.sweep(job, workers=2) for each in found]
    assert {(each.case, each.precision, each.outcome) for each in outcomes} == {
        (name, precision, {"test_crash": "crash", "test_hang": "hang"}.get(name, "right"))
        for name in names
        for precision in ("fp16", "int8")
    }
