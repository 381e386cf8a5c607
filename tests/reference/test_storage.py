from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import onnx
import pytest
from models import model, save

from trtpipe.backends.onnxruntime import OnnxRuntime
from trtpipe.config.formats import BF16, FP16
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.preflight.onnx_io import load_model, save_model
from trtpipe.reference.emulation import EmulateHalf
from trtpipe.reference.storage import StorageWatch
from trtpipe.reference.watch_storage import watch_storage


@pytest.fixture
def watched(tmp_path, make_job):
    """A watch on a graph with 16-bit storage, ready to run."""
    with ExitStack() as stack:

        def prepare(proto: onnx.ModelProto) -> StorageWatch:
            loaded = load_model(save(proto, tmp_path / "lowered.onnx"))
            run_passes(loaded, [InferTypes(), EmulateHalf()])
            probes, makers = watch_storage(loaded)
            save_model(loaded, tmp_path / "watched.onnx")
            return StorageWatch(
                stack.enter_context(OnnxRuntime().open(tmp_path / "watched.onnx", make_job().settings)), probes, makers
            )

        yield prepare


GRAPH = "(float[N] x) => (float[N] y) { h = Cast<to=%d>(x) m = Mul(h, h) s = Add(m, h) y = Cast<to=1>(s) }"


def test_the_node_that_overflows_is_named_and_not_those_behind_it(watched):
    watch = watched(model(GRAPH % 10))
    assert [spec.name for spec in watch.outputs] == ["y"]
    assert list(watch.infer({"x": np.array([3, 400], np.float32)})["y"]) == [12, np.inf]
    watch.infer({"x": np.array([1, 2], np.float32)})
    [found] = watch.overflows(FP16)
    assert (found.node, found.tensor, found.largest) == ("mul_1", "m", 160000)


def test_an_input_beyond_the_type(watched):
    watch = watched(model(GRAPH % 10))
    watch.infer({"x": np.array([1, -7e4], np.float32)})
    assert [(found.node, found.largest) for found in watch.overflows(FP16)] == [("x", 70000)]


@pytest.mark.parametrize(("value", "overflows"), [(65519, False), (65520, True)])
def test_what_rounds_to_the_largest_value_is_held(watched, value, overflows):
    watch = watched(model("(float[N] x) => (float[N] y) { h = Cast<to=10>(x) n = Neg(h) y = Cast<to=1>(n) }"))
    assert np.isinf(watch.infer({"x": np.array([value], np.float32)})["y"][0]) == overflows
    assert bool(watch.overflows(FP16)) is overflows


def test_bfloat16_holds_nearly_all_that_float32_does(watched):
    watch = watched(model(GRAPH % 16, opset=22))
    watch.infer({"x": np.array([1e15], np.float32)})
    assert watch.overflows(BF16) == ()


def test_inside_a_branch(watched):
    watch = watched(
        model(
            "(float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = t () => (float[2] a) "
            "{ h = Cast<to=10>(x) m = Mul(h, h) a = Cast<to=1>(m) }, "
            "else_branch = e () => (float[2] b) { b = Neg(x) }> }"
        )
    )
    feed = {"x": np.array([400, 2], np.float32)}
    watch.infer(feed | {"c": np.array(False)})
    assert watch.overflows(FP16) == ()
    watch.infer(feed | {"c": np.array(True)})
    assert [found.tensor for found in watch.overflows(FP16)] == ["m"]
