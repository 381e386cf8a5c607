"""The public functions on real files, with the null back-end."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import conv_net, feed_for, model, normal, run, save, weights_of

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.api import stages
from trtpipe.backends import choice
from trtpipe.backends.base import Refusal
from trtpipe.backends.null import NullEngine
from trtpipe.backends.torch_tensorrt import TorchTensorRT
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, HostError, InputError
from trtpipe.latency.reports import LatencyReport

pytestmark = pytest.mark.usefixtures("in_process")

PROFILE = {
    "precision": "int8",
    "targets": ["sm89"],
    "backend": "null",
    "shapes": {"x": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [8, 3, 8, 8]}},
    "latency": {"warmup": 0.0001, "duration": 0.001},
}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def net(tmp_path):
    return save(conv_net(), tmp_path / "net.onnx")


@pytest.fixture
def job(tmp_path):
    np.savez(tmp_path / "calib.npz", x=normal(24, 3, 8, 8))

    def make(source=None, *, recipe=None, **options):
        own = {name: options.pop(name) for name in ("allow_random", "engines", "progress") if name in options}
        return stages.make_job(
            source,
            profile=DeploymentProfile.model_validate(PROFILE | options),
            recipe=CalibrationRecipe.model_validate({"data": {"source": str(tmp_path / "calib.npz")}} | (recipe or {})),
            settings=Settings(cache_dir=tmp_path / "cache"),
            **own,
        )

    return make


class TestMakeJob:
    def test_sources(self, tmp_path):
        module = object()
        settings = Settings(cache_dir=tmp_path)

        def source(given):
            return stages.make_job(given, profile=DeploymentProfile(backend="null"), settings=settings).source

        assert source("net.onnx") == source(Path("net.onnx")) == OnnxSource(Path("net.onnx"))
        assert source("a.b:make") == FactorySource("a.b", "make")
        assert source((module, [1, 2])) == ModuleSource(module, (1, 2))
        assert source(None) is None

    def test_choices_left_open_are_made_and_told(self, job, heard_all, monkeypatch):
        monkeypatch.setattr(choice, "missing", lambda name: None if name == "tensorrt-rtx" else Refusal("no", "n"))
        monkeypatch.setattr(choice, "gpus", lambda: ())
        made = job("net.onnx", backend="auto", targets=(), progress=heard_all)
        assert (made.backend, [target.name for target in made.targets]) == ("tensorrt-rtx", ["sm86", "sm89", "sm120"])
        assert [note.split(":")[0] for note in heard_all.notes] == ["backend tensorrt-rtx", "targets sm86, sm89, sm120"]

    def test_choices_that_were_made_are_not_told(self, job, heard_all):
        made = job("net.onnx", progress=heard_all)
        assert (made.backend, [target.name for target in made.targets]) == ("null", ["sm89"])
        assert heard_all.notes == []

    def test_work_without_engines_needs_no_back_end(self, job, monkeypatch):
        monkeypatch.setattr(choice, "missing", lambda name: Refusal("no", "n"))
        assert job("net.onnx", backend="auto", engines=False).targets == ()
        with pytest.raises(HostError):
            job("net.onnx", backend="auto")

    def test_the_environment_is_the_default(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRTPIPE_CACHE_DIR", str(tmp_path / "elsewhere"))
        made = stages.make_job("net.onnx", engines=False)
        assert made.settings.cache_dir == tmp_path / "elsewhere"
        assert (made.profile.precision, made.recipe) == ("fp32", CalibrationRecipe())


class TestStageByStage:
    """Each stage alone, from the files the one before wrote."""

    def test_all_of_them(self, job, net, tmp_path):
        out = tmp_path / "out"
        exported = stages.export(job(str(net)), out / "a.onnx")
        assert exported.out == out / "a.onnx"
        assert (out / "a.onnx.json").is_file()
        simplified = stages.simplify(job(), exported.out, out).out
        assert simplified == out / "simplified.onnx"
        ranges = trtpipe.calibrate(job(), simplified, out / "r.json").out
        assert list(Ranges.read(ranges).tensors) == ["f", "x"]
        assert (out / "statistics.npz").is_file()
        lowered = stages.lower(job(), simplified, out / "b.onnx", ranges).out
        assert {str(weight.dtype) for weight in weights_of(onnx.load(lowered)).values()} >= {"int8"}
        compiled = stages.compile(job(), lowered, out / "c.engine")
        assert NullEngine.read(compiled.out).target == "sm89"
        assert EngineRecord.read(out / "c.engine.json").flavor == "null"
        verified = stages.verify(job(tolerance={"atol": 10.0}), lowered, out / "p.json", exported.out)
        assert verified.parity == ParityReport.read(out / "p.json")
        assert verified.accurate
        measured = stages.measure(job(), lowered, out)
        assert measured.latency == LatencyReport.read(out / "latency.json")
        feed = feed_for(conv_net())
        np.testing.assert_allclose(run(onnx.load(lowered), feed)["y"], run(conv_net(), feed)["y"], atol=1.0)

    def test_several_targets_go_into_a_folder(self, job, net, tmp_path):
        result = stages.compile(job(targets=["sm89", "sm120"]), net, tmp_path / "plans")
        names = {path.name for path in result.out.iterdir()}
        assert names == {f"{name}.plan{suffix}" for name in ("sm89", "sm120") for suffix in ("", ".json")}
        with_name = stages.compile(job(targets=["sm89", "sm120"]), net, tmp_path / "all.plan")
        assert with_name.out.is_dir()  # two engines are no single file

    @pytest.mark.parametrize("precision", ["int8", "fp8", "best"])
    def test_a_program_is_refused_in_8_bits_before_anything_is_looked_up(self, job, tmp_path, precision, monkeypatch):
        """Its engine in float32 may lie in the store, under the digest of the same program."""
        monkeypatch.setattr(stages, "load_backend", lambda name: TorchTensorRT())
        wanted = dataclasses.replace(job(precision=precision), backend="torch-tensorrt")
        with pytest.raises(BuildError, match="already quantized"):
            stages.compile(wanted, tmp_path / "net.py:factory", tmp_path / "out")

    def test_results_without_a_place(self, job, net):
        result = stages.measure(job(precision="fp32"), net, None)
        assert result.out is None
        assert result.latency.measurements[0].artifact == "lowered"

    def test_lowering_to_8_bits_needs_ranges(self, job, net, tmp_path):
        with pytest.raises(InputError, match="lowering to int8 needs ranges") as caught:
            stages.lower(job(), net, tmp_path / "out")
        assert "--ranges" in caught.value.remedy
        assert stages.lower(job(precision="fp16"), net, tmp_path / "half.onnx").out.is_file()

    def test_calibrating_is_asked_for_by_name_whatever_the_precision(self, job, net, tmp_path):
        result = trtpipe.calibrate(job(precision="fp32"), net, tmp_path / "ranges.json")
        assert Ranges.read(result.out).samples == 24

    def test_files_that_are_not_there(self, job, tmp_path):
        for call in (
            lambda: stages.simplify(job(), tmp_path / "no.onnx", tmp_path / "out"),
            lambda: stages.lower(job(), tmp_path / "no.onnx", tmp_path / "out", tmp_path / "no.json"),
            lambda: stages.compile(job(), tmp_path / "no.onnx", tmp_path / "out"),
            lambda: stages.measure(job(), tmp_path / "no.onnx", None),
        ):
            with pytest.raises(InputError, match=r"no\.onnx: no such file"):
                call()
        assert not (tmp_path / "out").exists()

    def test_an_output_that_cannot_be_comes_first(self, job, net, tmp_path):
        with pytest.raises(InputError, match="a file, so"):
            stages.simplify(job(), tmp_path / "no.onnx", net / "deeper")  # the folder is looked at before the model


class TestPlans:
    @pytest.fixture
    def plan(self, job, net, tmp_path):
        return stages.compile(job(precision="fp32"), net, tmp_path / "plans").out

    def test_an_engine_that_cannot_run_here(self, job, net, plan):
        for call in (lambda: stages.verify(job(), plan, None, net), lambda: stages.measure(job(), plan, None)):
            with pytest.raises(HostError, match=r"sm89\.plan cannot run here: null engines are placeholders"):
                call()

    def test_which_target_it_is_for(self, job, net, plan):
        plan.with_name("sm89.plan.json").unlink()
        with pytest.raises(InputError, match="which target is it for"):
            stages.verify(job(targets=["sm89", "sm120"]), plan, None, net)
        with pytest.raises(HostError):
            stages.verify(job(), plan, None, net)


class TestBuild:
    def test_what_a_result_tells(self, job, net, tmp_path):
        result = stages.build(job(str(net), tolerance={"atol": 100.0}), tmp_path / "out")
        assert (result.accurate, result.fast, result.failed) == (True, True, ())
        assert [artifact.kind for artifact in result.artifacts][-1] == "manifest"
        assert result.manifest.source == "net.onnx"
        assert [(verdict.gate, verdict.passed) for verdict in result.verdicts] == [
            ("accuracy", True),
            ("latency", None),
        ]

    def test_plan_and_build_agree(self, job, net, tmp_path):
        made = job(str(net), tolerance={"atol": 100.0})
        assert [step.state for step in stages.plan(made)] == ["to build"] + ["undecided"] * 8
        stages.build(made, tmp_path / "out")
        assert {step.state for step in stages.plan(made)} == {"hit"}
        assert not (tmp_path / "plan").exists()

    def test_8_bits_without_data_are_refused_at_once(self, job, net, tmp_path, heard_all):
        none = {"data": {"source": ""}}
        for call in (stages.plan, lambda made: stages.build(made, tmp_path / "out", heard_all)):
            with pytest.raises(InputError, match="int8 needs calibration data"):
                call(job(str(net), recipe=none))
        assert heard_all.steps == []
        stages.plan(job(str(net), recipe=none, allow_random=True))

    @pytest.mark.parametrize(("precision", "target"), [("fp8", "sm86"), ("bf16", "sm75")])
    def test_precisions_a_target_does_not_have_are_refused_at_once(
        self, job, net, tmp_path, heard_all, precision, target
    ):
        with pytest.raises(BuildError, match=f"{target} .* does not compute in {precision}"):
            stages.build(job(str(net), precision=precision, targets=[target]), tmp_path / "out", heard_all)
        assert heard_all.steps == []
        stages.plan(job(str(net), precision=precision, targets=[target, "sm89"]))  # one that can is enough

    def test_a_gate_that_fails_is_a_verdict(self, job, net, tmp_path):
        strict = job(str(net), tolerance={"atol": 0.0, "rtol": 0.0, "stat": "max"})
        result = stages.build(strict, tmp_path / "out")
        assert not result.accurate
        assert result.out == tmp_path / "out.rejected"
        assert result.parity.reasons
        assert result.verdicts[0].passed is False
        assert not (tmp_path / "out").exists()

    def test_a_net_with_a_single_node(self, job, tmp_path):
        tiny = save(model("(float[2] x) => (float[2] y) { y = Relu(x) }"), tmp_path / "tiny.onnx")
        result = stages.build(job(str(tiny), precision="fp16", shapes=(), recipe={"data": {}}), tmp_path / "out")
        assert result.accurate
