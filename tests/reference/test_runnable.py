from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import conv_net, feed_for, model, run, save

from trtpipe.artifact import Artifact, FileEntry
from trtpipe.backends.base import Refusal
from trtpipe.backends.null import Null
from trtpipe.backends.onnxruntime import OnnxRuntime
from trtpipe.config.formats import FP16, Precision
from trtpipe.reference.runnable import runnable_graph, runnable_targets
from trtpipe.stages.stage import Inputs

OVERFLOWS = "(float[3] x) => (float[3] y) { h = Cast<to=%d>(x) m = Mul(h, h) y = Cast<to=1>(m) }"


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp8"])
def test_graphs_the_cpu_computes_as_a_gpu_would_run_as_they_are(tmp_path, workdir, precision):
    path = save(conv_net(), tmp_path / "lowered.onnx")
    assert runnable_graph(path, Precision(precision).half, workdir) == (path, "")
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(("precision", "code", "squares"), [("fp16", 10, [np.inf, 1, 4]), ("bf16", 16, [90112, 1, 4])])
def test_16_bit_graphs_run_with_their_storage_emulated_through_all_optimizations(
    tmp_path, workdir, make_job, precision, code, squares
):
    path = save(model(OVERFLOWS % code, opset=22), tmp_path / "lowered.onnx")
    emulated, note = runnable_graph(path, Precision(precision).half, workdir)
    assert emulated.parent == workdir
    assert note == f"{'float16' if precision == 'fp16' else 'bfloat16'} storage emulated"
    with OnnxRuntime().open(emulated, make_job().settings) as runner:
        found = runner.infer({"x": np.array([300, 1.0001, 2], np.float32)})["y"]
    assert found.tolist() == squares


def test_a_graph_of_the_users_own_with_constants_in_nodes(tmp_path, workdir):
    proto = model(
        "(float[1] x) => (float[1] y) { c = Constant<value=float16[1] {15360}>() h = Cast<to=10>(x) m = Add(h, c) "
        "y = Cast<to=1>(m) }"
    )
    emulated, _ = runnable_graph(save(proto, tmp_path / "lowered.onnx"), FP16, workdir)
    assert run(onnx.load(emulated), {"x": np.array([2], np.float32)})["y"].tolist() == [3]


def test_engines_of_the_null_back_end_do_not_run():
    assert runnable_targets("null", ["sm89", "sm120"]) == frozenset()


def test_engines_run_whose_gpu_is_here(tmp_path, monkeypatch):
    monkeypatch.setattr(Null, "runs", lambda self, target: None if target.name == "sm89" else Refusal("no", "n"))
    engines = {}
    for name in ("sm89", "sm120"):
        (tmp_path / f"{name}.plan").write_text(name)
        entry = FileEntry.of(tmp_path / f"{name}.plan")
        engines[f"engine:{name}"] = Artifact("engine", tmp_path, (entry,), target=name)
    here = runnable_targets("null", ["sm89", "sm120"])
    assert [engine.target for engine in Inputs(engines).engines(here)] == ["sm89"]
    assert not runnable_targets("null", ["sm120"])


def test_feeds_of_a_conv_net_give_the_same_emulated_or_not(tmp_path, workdir):
    """A float32 graph holds nothing to emulate."""
    path = save(conv_net(), tmp_path / "lowered.onnx")
    emulated, _ = runnable_graph(path, FP16, workdir)
    feed = feed_for(conv_net())
    np.testing.assert_array_equal(run(onnx.load(emulated), feed)["y"], run(conv_net(), feed)["y"])
