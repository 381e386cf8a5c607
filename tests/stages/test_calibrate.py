from __future__ import annotations

from typing import TYPE_CHECKING, Any

import models
import numpy as np
import onnx
import pytest
from models import branches, conv_net, feed_for, save
from onnx import TensorProto, helper
from world import World, asked

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import Draft
from trtpipe.calibration.ranges import Ranges, TensorRange
from trtpipe.calibration.statistics_file import load_statistics
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.config.settings import Settings
from trtpipe.errors import InputError, StageError
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.calibrate import Calibrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trtpipe.config.job import Job

X = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(conv_net(), tmp_path / "simplified.onnx")


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    np.savez(tmp_path / "x.npz", x=X)

    def make(method: str = "percentile", precision: str = "int8", source: str = "x.npz", **data: Any) -> Job:
        settings = DataSettings(source=str(tmp_path / source), **data) if source else DataSettings()
        return trtpipe.make_job(
            profile=trtpipe.DeploymentProfile(precision=precision),  # type: ignore[arg-type]
            recipe=CalibrationRecipe(method=method, data=settings),  # type: ignore[arg-type]
            settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
            engines=False,
        )

    return make


def states(result: trtpipe.BuildResult) -> dict[str, str]:
    return {step.label: step.state for step in result.steps}


def test_another_method_costs_no_new_pass(model: Path, job: Callable[..., Job], tmp_path: Path) -> None:
    first = trtpipe.calibrate(model, tmp_path / "out", **asked(job("max")))
    assert states(first) == {"observe": "built", "calibrate": "built"}
    for method in ("percentile", "mse", "entropy", "auto"):
        result = trtpipe.calibrate(model, tmp_path / method, **asked(job(method)))
        assert states(result) == {"observe": "hit", "calibrate": "built"}
        assert Ranges.read(tmp_path / method / "ranges.json").method == method
        assert (tmp_path / method / "statistics.npz").read_bytes() == (tmp_path / "out/statistics.npz").read_bytes()
    assert states(trtpipe.calibrate(model, tmp_path / "out", **asked(job("max")))) == {
        "observe": "hit",
        "calibrate": "hit",
    }


def test_a_file_as_output_has_the_statistics_beside_it(model: Path, job: Callable[..., Job], tmp_path: Path) -> None:
    result = trtpipe.calibrate(model, tmp_path / "here" / "r.json", **asked(job("max")))
    assert result.out == tmp_path / "here" / "r.json"
    assert sorted(path.name for path in (tmp_path / "here").glob("[!.]*")) == ["r.json", "statistics.npz"]


def test_largest_magnitudes_are_exact(model: Path, job: Callable[..., Job], tmp_path: Path) -> None:
    trtpipe.calibrate(model, tmp_path / "out", **asked(job("max", batch=7)))
    ranges = Ranges.read(tmp_path / "out" / "ranges.json").tensors
    assert ranges["x"].amax == np.abs(X).max()
    assert sorted(ranges) == ["f", "x"]


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_auto_gives_the_same_bytes_in_a_fresh_store(
    model: Path, job: Callable[..., Job], tmp_path: Path, precision: str
) -> None:
    texts = set()
    for cache in ("one", "two"):
        fresh = trtpipe.Settings(cache_dir=tmp_path / cache)
        made = job("auto", precision)
        trtpipe.calibrate(model, tmp_path / cache / "out", profile=made.profile, recipe=made.recipe, settings=fresh)
        texts.add((tmp_path / cache / "out" / "ranges.json").read_text())
    assert len(texts) == 1
    found = Ranges.read(tmp_path / "one" / "out" / "ranges.json")
    assert found.method == "auto"
    assert {tensor.method for tensor in found.tensors.values()} <= {"max", "mse", "percentile"}


def test_shards_merge_to_the_whole_and_give_its_ranges(model: Path, job: Callable[..., Job], tmp_path: Path) -> None:
    trtpipe.calibrate(model, tmp_path / "whole", **asked(job("mse")))
    parts = []
    for number, rows in enumerate(np.split(X, [10, 25])):
        np.savez(tmp_path / f"{number}.npz", x=rows)
        trtpipe.calibrate(model, tmp_path / str(number), **asked(job("mse", source=f"{number}.npz")))
        parts.append(tmp_path / str(number) / "statistics.npz")
    merged = trtpipe.merge_statistics(parts, tmp_path / "merged.npz")
    assert merged.tensors == load_statistics(tmp_path / "whole" / "statistics.npz").tensors
    trtpipe.ranges_from_statistics(
        [tmp_path / "merged.npz"], tmp_path / "ranges.json", simplified=model, **asked(job("mse", source=""))
    )
    assert Ranges.read(tmp_path / "ranges.json").tensors == Ranges.read(tmp_path / "whole" / "ranges.json").tensors
    with pytest.raises(InputError, match="auto chooses ranges by the model's output"):
        trtpipe.ranges_from_statistics(
            [tmp_path / "merged.npz"], tmp_path / "auto.json", simplified=model, **asked(job("auto", source=""))
        )


def test_a_trt_cache_becomes_ranges(model: Path, tmp_path: Path) -> None:
    (tmp_path / "c.cache").write_text("TRT-8601-EntropyCalibration2\nx: 3d000000\nold: 3f800000\n")
    result = trtpipe.import_trt_cache(tmp_path / "c.cache", model, tmp_path / "ranges.json")
    assert (result.matched, result.missing, result.unused) == (("x",), ("f",), ("old",))
    assert Ranges.read(tmp_path / "ranges.json").tensors["x"].amax == 127 / 32


class TestBranches:
    @pytest.fixture
    def data(self, tmp_path: Path) -> None:
        feeds = [feed_for(branches(), seed) for seed in range(0, 40, 2)]  # even seeds take the then branch
        np.savez(tmp_path / "b.npz", x=np.stack([feed["x"] for feed in feeds]), c=np.stack([f["c"] for f in feeds]))

    @pytest.mark.usefixtures("data")
    def test_a_branch_is_observed_and_quantized(self, job: Callable[..., Job], tmp_path: Path) -> None:
        proto = branches()
        model = save(proto, tmp_path / "simplified.onnx")
        made = job("auto", source="b.npz")
        trtpipe.calibrate(model, tmp_path / "out", **asked(made))
        ranges = Ranges.read(tmp_path / "out" / "ranges.json")
        x = np.load(tmp_path / "b.npz")["x"]
        assert ranges.tensors["r"].maximum == np.maximum(x, 0).max()
        trtpipe.lower(model, tmp_path / "out", ranges=tmp_path / "out" / "ranges.json", **asked(made))
        lowered = onnx.load(tmp_path / "out" / "lowered.onnx")
        (branch,) = (node for node in lowered.graph.node if node.op_type == "If")
        then = next(attribute.g for attribute in branch.attribute if attribute.name == "then_branch")
        assert [node.op_type for node in then.node].count("DequantizeLinear") == 2
        assert {tensor.data_type for tensor in then.initializer} == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT}
        assert "w" not in {tensor.name for tensor in lowered.graph.initializer}
        work = LowerRecord.read(tmp_path / "out" / "lowered.onnx.json").work
        assert work is not None
        assert work.unreached == 0

    def test_work_in_a_branch_that_is_never_taken_is_told_apart(self, job: Callable[..., Job], tmp_path: Path) -> None:
        text = (
            "(float[2,4] x, bool c) => (float[2,5] y) { f = Relu(x) "
            "y = If(c) <then_branch = t () => (float[2,5] a) { a = MatMul(f, w) }, "
            "else_branch = e () => (float[2,5] b) { g = Exp(f) b = MatMul(g, v) }> }"
        )
        graph = models.model(text, w=models.normal(4, 5), v=models.normal(4, 5, seed=1))
        path = save(graph, tmp_path / "simplified.onnx")
        np.savez(tmp_path / "b.npz", x=models.normal(16, 2, 4), c=np.ones(16, bool))
        made = job("max", source="b.npz")
        trtpipe.calibrate(path, tmp_path / "out", **asked(made))
        trtpipe.lower(path, tmp_path / "out", ranges=tmp_path / "out" / "ranges.json", **asked(made))
        work = LowerRecord.read(tmp_path / "out" / "lowered.onnx.json").work
        assert work is not None
        assert (work.share, work.share_reached, work.unreached) == (0.5, 1.0, work.total // 2)


STAGE = Calibrate()


@pytest.mark.parametrize("amax", [3.0, 0.0])
def test_sound_ranges_pass_the_check(tmp_path, table, amax):
    found = TensorRange(amax=amax, method="max", minimum=-amax, maximum=amax)
    other = TensorRange(amax=1.0, method="max", minimum=-1.0, maximum=1.0)
    Ranges(method="max", samples=1, tensors={"x": found, "y": other}).write(tmp_path / "ranges.json")
    STAGE.check(Draft("ranges", tmp_path, ("ranges.json",)), table(simplified=conv_net()))


@pytest.mark.parametrize("amax", ["-1.0", '"Infinity"', '"NaN"'])
def test_unsound_ones_do_not(tmp_path, table, amax):
    found = f'{{"amax": {amax}, "method": "max", "minimum": 0, "maximum": 1}}'
    text = f'{{"schema_version": {Ranges.SCHEMA}, "method": "max", "samples": 1, "tensors": {{"x": {found}}}}}'
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises((StageError, InputError), match=r"\bx\b"):
        STAGE.check(Draft("ranges", tmp_path, ("ranges.json",)), table(simplified=conv_net()))


def test_what_its_key_holds(make_job):
    def key(precision="int8", keep=(), **recipe):
        return STAGE.settings(make_job(precision=precision, keep=keep, recipe=recipe))

    base = key(method="percentile")
    assert base == key(keep=["a"], method="percentile")
    assert base != key("fp8", method="percentile")
    assert base != key(method="percentile", percentile=99.0)
    assert key(method="max", percentile=99.0) == key(method="max", percentile=98.0)  # it plays no part there
    assert key(method="mse") != key("fp8", method="mse")
    assert len({str(key(keep=keep, method="auto", weights=w)) for keep in ((), ("a",)) for w in ("max", "mse")}) == 4


def uneven(folder: Path) -> None:
    """c0 does little work on heavy tails and makes most of the noise; c1 and c2 do the rest."""
    rng = np.random.default_rng(0)
    weights, nodes = [], []
    for name, source, size, channels in (("c0", "x", 1, 16), ("c1", "t0", 3, 16), ("c2", "r1", 3, 16)):
        weight = rng.normal(size=(16, channels, size, size)) / (channels * size * size) ** 0.5
        weights.append(onnx.numpy_helper.from_array(weight.astype(np.float32), f"{name}_w"))
        nodes.append(helper.make_node("Conv", [source, f"{name}_w"], [name], name, pads=[size // 2] * 4))
    nodes.insert(1, helper.make_node("Tanh", ["c0"], ["t0"], "t0"))
    nodes.insert(3, helper.make_node("LeakyRelu", ["c1"], ["r1"], "r1"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 16, 12, 12)) for name in ("x", "c2"))
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), folder / "net.onnx")
    samples = np.clip(rng.standard_t(2, size=(32, 16, 12, 12)), -150, 150).astype(np.float32)
    np.savez(folder / "calib.npz", x=samples)


@pytest.mark.usefixtures("in_process")
def test_another_choice_of_nodes_does_not_get_the_corrections_of_the_first(tmp_path: Path, heard_all: Any) -> None:
    """Corrections are searched for the nodes that int8_nodes names, so these are part of the key of the ranges."""
    uneven(tmp_path)
    world, shapes = World(tmp_path), {"x": {"min": [1, 16, 12, 12], "opt": [1, 16, 12, 12], "max": [4, 16, 12, 12]}}

    def build(nodes: tuple[str, ...], cache: str) -> tuple[Ranges, list[float]]:
        job = world.job(
            precision="best",
            int8_nodes=nodes,
            shapes=shapes,
            recipe={"method": "max", "data": {"source": str(tmp_path / "calib.npz")}, "evaluation": None},
            settings=Settings(cache_dir=tmp_path / cache),
        )
        made = {step.artifact.kind: step.artifact for step in world.run(job, heard_all) if step.artifact is not None}
        compared = ParityReport.read(made["parity"].path).comparisons
        snr = [output.snr_db for each in compared if each.artifact == "lowered" for output in each.outputs]
        return Ranges.read(made["ranges"].path), snr

    some, _ = build(("c1", "c2"), "warm")
    warm, warm_snr = build(("*",), "warm")
    fresh, fresh_snr = build(("*",), "fresh")
    assert warm == fresh
    assert warm_snr == fresh_snr
    assert min(warm_snr) > 25.0
    assert set(warm.corrections.kept) == {"c0"}
    assert set(some.corrections.kept) == set()


def test_data_of_zeros_is_the_user_s_mistake(model: Path, job: Callable[..., Job], tmp_path: Path) -> None:
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    onnx.save(proto, model)
    np.savez(tmp_path / "zeros.npz", x=np.zeros_like(X))
    with pytest.raises(InputError, match=r"zeros\.npz.* 0 in all samples") as caught:
        trtpipe.calibrate(model, tmp_path / "out", **asked(job(source="zeros.npz")))
    assert caught.value.exit_code == 2
