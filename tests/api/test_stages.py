"""The public functions on real files, with the null back-end."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from models import conv_net, feed_for, model, normal, run, save, weights_of

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.api import stages
from trtpipe.backends.null import NullEngine
from trtpipe.backends.torch_tensorrt import TorchTensorRT
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, HostError, InputError, StageError
from trtpipe.latency.reports import LatencyReport

pytestmark = pytest.mark.usefixtures("in_process")

PROFILE = {
    "precision": "int8",
    "targets": ["sm89"],
    "backend": "null",
    "shapes": {"x": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [8, 3, 8, 8]}},
    "latency": {"warmup": 0.0001, "duration": 0.001, "cpu": True},
}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _write_feeds(folder):
    """A data function of feeds for an input of 4 steps, 2 sequences and 3 features."""
    path = folder / "feeds.py"
    path.write_text(
        "import numpy as np\n\n\ndef feeds():\n    generator = np.random.default_rng(0)\n"
        "    for _ in range(16):\n        yield {'x': generator.normal(size=(4, 2, 3)).astype(np.float32)}\n"
    )
    return path


@pytest.fixture
def net(tmp_path):
    return save(conv_net(), tmp_path / "net.onnx")


@pytest.fixture
def asked(tmp_path):
    """Arguments of a usual build; options go into its profile."""
    np.savez(tmp_path / "calib.npz", x=normal(24, 3, 8, 8))

    def make(*, recipe=None, **options):
        data = {"data": {"source": str(tmp_path / "calib.npz")}} | (recipe or {})
        return {
            "profile": DeploymentProfile.model_validate(PROFILE | options),
            "recipe": CalibrationRecipe.model_validate(data),
            "settings": Settings(cache_dir=tmp_path / "cache"),
        }

    return make


def without_data(asked):
    """The same, for the functions that read no data."""
    return {name: value for name, value in asked.items() if name != "recipe"}


class TestStageByStage:
    """Each stage alone, from the files the one before wrote."""

    def test_fewer_samples_than_asked_for_are_said_where_the_statistics_are_known(
        self, asked, net, tmp_path, heard_all
    ):
        said = []
        for wanted in (None, 512, None):
            recipe = {"data": {"source": str(tmp_path / "calib.npz"), "samples": wanted}}
            heard_all.warnings.clear()
            result = trtpipe.calibrate(net, tmp_path / "r.json", progress=heard_all, **asked(recipe=recipe))
            said.append([warning for warning in heard_all.warnings if "asked for" in warning])
        assert said == [[], ["512 samples were asked for, and there are 24: all are used"], []]
        assert result.steps[0].state == "hit"

    def test_all_of_them(self, asked, net, tmp_path):
        out = tmp_path / "out"
        usual, plain = asked(), without_data(asked())
        exported = trtpipe.export(net, out / "a.onnx", **plain)
        assert exported.out == out / "a.onnx"
        assert (out / "a.onnx.json").is_file()
        simplified = trtpipe.simplify(exported.out, out, **plain).out
        assert simplified == out / "simplified.onnx"
        ranges = trtpipe.calibrate(simplified, out / "r.json", **usual).out
        assert list(Ranges.read(ranges).tensors) == ["f", "x"]
        assert (out / "statistics.npz").is_file()
        lowered = trtpipe.lower(simplified, out / "b.onnx", ranges=ranges, **usual).out
        assert {str(weight.dtype) for weight in weights_of(onnx.load(lowered)).values()} >= {"int8"}
        compiled = trtpipe.compile(lowered, out / "c.engine", **plain)
        assert NullEngine.read(compiled.out).target == "sm89"
        assert EngineRecord.read(out / "c.engine.json").flavor == "null"
        verified = trtpipe.verify(lowered, exported.out, out / "p.json", **asked(tolerance={"atol": 10.0}))
        assert verified.parity == ParityReport.read(out / "p.json")
        assert verified.accurate
        measured = trtpipe.measure(lowered, out, **usual)
        assert measured.latency == LatencyReport.read(out / "latency.json")
        feed = feed_for(conv_net())
        np.testing.assert_allclose(run(onnx.load(lowered), feed)["y"], run(conv_net(), feed)["y"], atol=1.0)

    def test_several_targets_go_into_a_folder(self, asked, net, tmp_path):
        two = without_data(asked(targets=["sm89", "sm120"]))
        result = trtpipe.compile(net, tmp_path / "plans", **two)
        names = {path.name for path in result.out.iterdir()} - {".trtpipe.json"}
        assert names == {f"{name}.plan{suffix}" for name in ("sm89", "sm120") for suffix in ("", ".json")}
        assert trtpipe.compile(net, tmp_path / "all.plan", **two).out.is_dir()  # two engines are no single file

    @pytest.mark.parametrize("precision", ["int8", "fp8", "best"])
    def test_a_program_is_refused_in_8_bits_before_anything_is_looked_up(self, asked, tmp_path, precision, monkeypatch):
        """Its engine in float32 may lie in the store, under the digest of the same program."""
        monkeypatch.setattr(stages, "load_backend", lambda name: TorchTensorRT())
        with pytest.raises(BuildError):
            trtpipe.compile(
                f"{tmp_path / 'net.py'}:factory", tmp_path / "out", **without_data(asked(precision=precision))
            )

    def test_results_without_a_place(self, asked, net):
        result = trtpipe.measure(net, **asked(precision="fp32"))
        assert result.out is None
        assert result.latency.measurements[0].artifact == "lowered"

    def test_lowering_to_8_bits_needs_ranges(self, asked, net, tmp_path):
        with pytest.raises(InputError, match="ranges") as caught:
            trtpipe.lower(net, tmp_path / "out", **asked())
        assert "--ranges" in caught.value.remedy
        assert trtpipe.lower(net, tmp_path / "half.onnx", **asked(precision="fp16")).out.is_file()

    def test_calibrating_is_asked_for_by_name_whatever_the_precision(self, asked, net, tmp_path):
        result = trtpipe.calibrate(net, tmp_path / "ranges.json", **asked(precision="fp32"))
        assert Ranges.read(result.out).samples == 24

    def test_files_that_are_not_there(self, asked, tmp_path):
        missing, out, plain = tmp_path / "no.onnx", tmp_path / "out", without_data(asked())
        for call in (
            lambda: trtpipe.simplify(missing, out, **plain),
            lambda: trtpipe.lower(missing, out, ranges=tmp_path / "no.json", **asked()),
            lambda: trtpipe.compile(missing, out, **plain),
            lambda: trtpipe.measure(missing, **asked()),
        ):
            with pytest.raises(InputError, match=r"no\.onnx"):
                call()
        assert not (tmp_path / "out").exists()

    def test_an_output_that_cannot_be_comes_first(self, net, tmp_path):
        with pytest.raises(InputError, match=r"net\.onnx: a file"):
            trtpipe.simplify(tmp_path / "no.onnx", net / "deeper")  # the folder is looked at before the model


class TestPlans:
    @pytest.fixture
    def plan(self, asked, net, tmp_path):
        return trtpipe.compile(net, tmp_path / "plans", **without_data(asked(precision="fp32"))).out

    def test_an_engine_that_cannot_run_here(self, asked, net, plan):
        for call in (lambda: trtpipe.verify(plan, net, **asked()), lambda: trtpipe.measure(plan, **asked())):
            with pytest.raises(HostError, match=r"sm89\.plan"):
                call()

    def test_which_target_it_is_for(self, asked, net, plan):
        plan.with_name("sm89.plan.json").unlink()
        with pytest.raises(InputError, match="target"):
            trtpipe.verify(plan, net, **asked(targets=["sm89", "sm120"]))
        with pytest.raises(HostError):
            trtpipe.verify(plan, net, **asked())


class TestBuild:
    def test_what_a_result_tells(self, asked, net, tmp_path):
        result = trtpipe.build(net, tmp_path / "out", **asked(tolerance={"atol": 100.0}))
        assert (result.accurate, result.fast, result.failed) == (True, None, ())
        assert [artifact.kind for artifact in result.artifacts][-1] == "manifest"
        assert result.manifest.source == "net.onnx"
        assert result.verdict == result.manifest.verdict
        assert result.verdict.headline.startswith("PASSED on the lowered graph (onnxruntime, CPU, ")
        assert result.verdict.not_executed.keys() == {"engine:sm89"}

    def test_dry_run_and_build_agree(self, asked, net, tmp_path):
        usual = asked(tolerance={"atol": 100.0})
        assert [step.state for step in trtpipe.dry_run(net, **usual)] == ["to build"] + ["undecided"] * 8
        trtpipe.build(net, tmp_path / "out", **usual)
        assert {step.state for step in trtpipe.dry_run(net, **usual)} == {"hit"}

    def test_8_bits_without_data_are_refused_at_once(self, asked, net, tmp_path, heard_all):
        usual = asked(recipe={"data": {"source": ""}})
        for call in (
            lambda: trtpipe.dry_run(net, **usual),
            lambda: trtpipe.build(net, tmp_path / "out", progress=heard_all, **usual),
        ):
            with pytest.raises(InputError, match="int8 needs calibration data"):
                call()
        assert heard_all.steps == []
        trtpipe.dry_run(net, allow_random=True, **usual)

    @pytest.mark.parametrize(("precision", "target"), [("fp8", "sm86"), ("bf16", "sm75")])
    def test_precisions_a_target_does_not_have_are_refused_at_once(
        self, asked, net, tmp_path, heard_all, precision, target
    ):
        with pytest.raises(BuildError, match=f"{target} .* {precision}"):
            trtpipe.build(net, tmp_path / "out", progress=heard_all, **asked(precision=precision, targets=[target]))
        assert heard_all.steps == []
        trtpipe.dry_run(net, **asked(precision=precision, targets=[target, "sm89"]))  # one that can is enough

    def test_a_gate_that_fails_is_a_verdict(self, asked, net, tmp_path):
        strict = asked(tolerance={"atol": 0.0, "rtol": 0.0, "stat": "max"})
        result = trtpipe.build(net, tmp_path / "out", **strict)
        assert not result.accurate
        assert result.out == tmp_path / "out.rejected"
        assert result.parity.reasons
        assert result.verdict.exit_code == 3
        assert not (tmp_path / "out").exists()

    def test_a_failed_int8_build_names_coverage_and_layers(self, asked, net, tmp_path):
        """Also those that are in higher precision for another reason than the fallback."""
        first = next(node.name for node in onnx.load(net).graph.node if node.op_type == "Conv")
        strict = asked(tolerance={"atol": 0.0, "rtol": 0.0, "stat": "max"}, keep=[first])
        reason = trtpipe.build(net, tmp_path / "out", **strict).parity.reasons[-1]
        assert "coverage" in reason
        assert first in reason

    @pytest.mark.parametrize("taken", ["file of the bundle", "edited manifest", "not a folder"])
    def test_a_users_file_where_the_rejected_go_hides_no_verdict(self, asked, net, tmp_path, heard_all, taken):
        strict, rejected = asked(tolerance={"atol": 0.0, "rtol": 0.0, "stat": "max"}), tmp_path / "out.rejected"
        if taken == "edited manifest":
            trtpipe.build(net, tmp_path / "out", **strict)
        mine = rejected / ("lowered.onnx" if taken == "file of the bundle" else "manifest.json")
        if taken == "not a folder":
            mine = rejected
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("notes")
        result = trtpipe.build(net, tmp_path / "out", progress=heard_all, **strict)
        assert (result.verdict.exit_code, result.out, mine.read_text()) == (3, None, "notes")
        assert result.parity.reasons
        assert "not kept" in heard_all.warnings[-1]
        assert str(rejected) in heard_all.warnings[-1]
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["verify", "measure"])
    def test_a_late_stage_that_cannot_run_leaves_the_bundle(self, asked, net, tmp_path, monkeypatch, name):
        def cannot(*arguments):
            raise StageError(f"{tmp_path / 'lowered.onnx'}: no kernel for TRT_FP4DynamicQuantize", "run it on a GPU")

        monkeypatch.setattr(f"trtpipe.stages.{name}.{name.capitalize()}.run", cannot)
        result = trtpipe.build(net, tmp_path / "out", **asked(tolerance={"atol": 100.0}))
        assert result.out == tmp_path / "out"
        assert [step.label for step in result.failed] == [name]
        verdict = result.manifest.verdict
        assert verdict == result.verdict
        reason = "lowered.onnx: no kernel for TRT_FP4DynamicQuantize"  # a manifest names no folder
        assert [(each.step, each.reason, each.exit_code) for each in verdict.failures] == [(name, reason, 5)]
        assert verdict.exit_code == 0
        assert (verdict.outcome, result.accurate) == (("not judged", None) if name == "verify" else ("passed", True))
        assert {"sm89.plan", "lowered.onnx", "manifest.json"} <= {path.name for path in result.out.iterdir()}

    def test_corrections_that_fail_are_left_out(self, asked, net, tmp_path, monkeypatch):
        def cannot(*arguments, **options):
            raise StageError("no runner for the quantized graph", "leave corrections out")

        monkeypatch.setattr("trtpipe.quantization.correction_search.find_corrections", cannot)
        result = trtpipe.build(net, tmp_path / "out", **asked(tolerance={"atol": 100.0}))
        assert (result.verdict.outcome, result.out) == ("passed", tmp_path / "out")
        (failure,) = result.manifest.verdict.failures
        assert (failure.step, failure.reason) == ("corrections", "no runner for the quantized graph")
        assert Ranges.read(result.out / "ranges.json").corrections_failed == failure.reason
        assert trtpipe.inspect(result.out).altered == ()

    def test_a_latency_limit_that_could_not_be_judged_for_an_error_fails(self, asked, net, tmp_path, monkeypatch):
        def cannot(*arguments):
            raise StageError("the GPU is busy", "wait")

        monkeypatch.setattr("trtpipe.stages.measure.Measure.run", cannot)
        limit = PROFILE["latency"] | {"max_p99": 1.0}
        result = trtpipe.build(net, tmp_path / "out", **asked(tolerance={"atol": 100.0}, latency=limit))
        assert (result.verdict.exit_code, result.out) == (5, tmp_path / "out.rejected")

    def test_bad_evaluation_data_is_an_error_and_what_is_finished_is_kept(self, asked, net, tmp_path, heard_all):
        np.savez(tmp_path / "bad.npz", x=normal(8, 3, 8, 8))
        recipe = {"evaluation": {"source": str(tmp_path / "bad.npz"), "metric": "top1"}}
        with pytest.raises(InputError, match="no labels"):
            trtpipe.build(net, tmp_path / "out", progress=heard_all, **asked(recipe=recipe))
        assert not (tmp_path / "out").exists()
        kept = tmp_path / "out.rejected"
        assert (kept / "sm89.plan").is_file()
        verdict = trtpipe.inspect(kept).manifest.verdict
        assert (verdict.exit_code, verdict.failures[0].step) == (2, "verify")
        assert str(kept) in heard_all.warnings[-1]

    def test_nothing_in_the_precision_asked_for_is_rejected(self, asked, tmp_path):
        recurrent = model(
            """(float[4,2,3] x) => (float[4,1,2,3] y) { y = RNN<hidden_size=3>(x, w, r) }""",
            w=normal(1, 3, 3), r=normal(1, 3, 3),
        )  # fmt: skip
        result = trtpipe.build(
            save(recurrent, tmp_path / "rnn.onnx"), tmp_path / "out",
            **asked(shapes=(), recipe={"data": {"source": f"{_write_feeds(tmp_path)}:feeds"}}),
        )  # fmt: skip
        assert (result.verdict.exit_code, result.out) == (5, tmp_path / "out.rejected")
        assert result.verdict.precision.given is False
        work = result.manifest.work
        assert (work.total, work.eight_bit, work.share) == (4 * 2 * (3 * 3 + 3 * 3), 0, 0)

    def test_a_net_with_a_single_node(self, asked, tmp_path):
        tiny = save(model("(float[2] x) => (float[2] y) { y = Relu(x) }"), tmp_path / "tiny.onnx")
        usual = asked(precision="fp16", shapes=(), recipe={"data": {}})
        verdict = trtpipe.build(tiny, tmp_path / "out", **usual).verdict
        assert (verdict.outcome, verdict.exit_code, verdict.data) == ("not judged", 0, "random")


class TestOwnInput:
    def test_a_result_does_not_take_the_place_of_what_it_is_made_from(self, asked, net):
        before = net.read_bytes()
        for out in (net, net.parent / "." / net.name):
            with pytest.raises(InputError, match="the command reads this file"):
                trtpipe.export(net, out)
        assert net.read_bytes() == before

    def test_an_empty_path_is_none(self, net):
        with pytest.raises(InputError, match="out: an empty path"):
            trtpipe.export(net, "")
