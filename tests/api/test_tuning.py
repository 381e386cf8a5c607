"""Sensitivity and tuning through the public functions, on a small network of which 8 bits break one layer."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import onnx.compose
import pytest
from models import model, normal, run, save, sounds, spectrogram

import trtpipe
from trtpipe.api import stages
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.errors import InputError


def network(largest: float = 100.0, classes: int = 10) -> onnx.ModelProto:
    """Four wide layers; the third reads values one of which dwarfs the others, so that 8 bits see little else."""
    scale = np.ones((1, 32), np.float32)
    scale[0, 0] = largest
    weights = {f"w{i}": normal(32, 32, seed=i, scale=0.25) for i in range(4)}
    weights["w2"][0] = 0  # the large value is ignored
    return model(
        f"(float[N,32] x) => (float[N,{classes}] y) "
        "{ a = MatMul(x, w0) b = Relu(a) c = MatMul(b, w1) d = Mul(c, scale) "
        "e = MatMul(d, w2) f = Tanh(e) g = MatMul(f, w3) y = MatMul(g, head) }",
        scale=scale, head=normal(32, classes, seed=9), **weights,
    )  # fmt: skip


def detector() -> onnx.ModelProto:
    """The same body; four boxes of which it moves the corners a little, and scores of two classes for each."""
    head = network().graph
    del head.node[-1], head.output[:]
    parts = model(
        "(float[N,32] g) => (float[N,4,4] boxes, float[N,4,2] scores) { a = MatMul(g, place) b = Reshape(a, fours) "
        "c = Tanh(b) boxes = Add(c, cells) d = MatMul(g, kind) e = Reshape(d, twos) scores = Sigmoid(e) }",
        place=normal(32, 16, seed=10, scale=0.2), kind=normal(32, 8, seed=11), fours=np.array([-1, 4, 4]),
        twos=np.array([-1, 4, 2]), cells=np.array([[20 * i, 0, 20 * i + 10, 10] for i in range(4)], np.float32),
    )  # fmt: skip
    body = onnx.helper.make_model(head, opset_imports=parts.opset_import, ir_version=parts.ir_version)
    body.graph.output.append(onnx.helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT, ["N", 32]))
    return onnx.compose.merge_models(body, parts, [("g", "g")], prefix2="head_")


@pytest.fixture
def job(tmp_path):
    """A job on the network, without corrections, which would mend it; options go into its recipe's evaluation."""
    path = save(network(), tmp_path / "net.onnx")
    x = normal(512, 32, seed=3)
    np.savez(tmp_path / "calib.npz", x=x[:64])
    np.savez(tmp_path / "eval.npz", x=x[64:], labels=run(network(), {"x": x[64:]})["y"].argmax(axis=1))

    def make(precision="int8", corrections="none", **evaluation):
        chosen = {"source": str(tmp_path / "eval.npz"), "labels": "labels", "batch": 64, "metric": "top1"} | evaluation
        recipe = {
            "method": "max",
            "corrections": corrections,
            "data": {"source": str(tmp_path / "calib.npz"), "batch": 16},
        }
        if chosen["metric"]:
            recipe["evaluation"] = chosen
        shapes = {"x": {"min": [1, 32], "opt": [16, 32], "max": [64, 32]}}
        return trtpipe.make_job(
            str(path),
            profile=DeploymentProfile.model_validate({"precision": precision, "shapes": shapes, "backend": "null",
                                                      "targets": ["sm89"]}),
            recipe=CalibrationRecipe.model_validate(recipe),
            settings=Settings(cache_dir=tmp_path / "cache"),
            simplify=False,
        )  # fmt: skip

    return make


class TestSensitivity:
    def test_the_layer_that_8_bits_break_is_ranked_first(self, job, tmp_path, heard_all):
        found = trtpipe.sensitivity(job(), tmp_path / "s.json", samples=4, half=True, progress=heard_all)
        worst, second, *_ = found.ranked
        assert worst.name == "matmul_4"
        assert worst.noise > 10 * second.noise
        assert worst.macs == 16 * 32 * 32
        assert 0.5 < found.additivity < 2
        assert all(group.half_noise is not None and group.half_noise < group.noise for group in found.groups)
        assert trtpipe.Sensitivity.read(tmp_path / "s.json") == found

    def test_it_is_kept(self, job, heard_all, monkeypatch):
        first = trtpipe.sensitivity(job(), samples=4, progress=heard_all)
        monkeypatch.setattr(
            "trtpipe.stages.sensitivity.MeasureSensitivity.run", lambda *args: pytest.fail("measured again")
        )
        assert trtpipe.sensitivity(job(), samples=4) == first

    def test_what_comes_before_a_group_is_computed_once(self, job, monkeypatch):
        from trtpipe.quantization import simulator

        whole, real = job(), simulator.find_partitions
        partition = []
        monkeypatch.setattr(simulator, "find_partitions", lambda *args: partition.append(real(*args)) or partition[-1])
        found = trtpipe.sensitivity(whole, samples=4)
        assert len(partition[0]) == 3
        monkeypatch.setattr(simulator, "find_partitions", lambda *args: ())
        monkeypatch.setattr("trtpipe.stages.sensitivity.MeasureSensitivity.version", 0)
        again = trtpipe.sensitivity(whole, samples=4)
        for first, second in zip(found.groups, again.groups, strict=True):
            assert first.noise == pytest.approx(second.noise, rel=1e-3)

    def test_values_that_do_not_fit_are_computed_again(self, job, monkeypatch):
        from trtpipe.quantization import output_noise

        stored, real = [], output_noise._stored
        monkeypatch.setattr(output_noise, "_stored", lambda *args: stored.append(real(*args)) or stored[-1])
        made = job()
        first = trtpipe.sensitivity(made, samples=4)
        monkeypatch.setattr(output_noise, "_LEAST_BYTES", 2 * 64 * 32 * 4)  # the values of two partitions for 64 rows
        monkeypatch.setattr("trtpipe.stages.sensitivity.MeasureSensitivity.version", 0)
        again = trtpipe.sensitivity(made, samples=4)
        assert [len(partitions) for partitions, _ in stored] == [3, 2]
        for one, other in zip(first.groups, again.groups, strict=True):
            assert one.noise == pytest.approx(other.noise, rel=1e-3)

    def test_precisions_without_a_choice(self, job):
        with pytest.raises(InputError, match="fp16 has nothing to choose"):
            trtpipe.sensitivity(job("fp16"))


class TestTune:
    def test_only_the_broken_layer_is_kept_and_build_takes_the_profile(self, job, tmp_path, heard_all):
        result = trtpipe.tune(job(), trtpipe.Budget(max_drop=0.05), tmp_path / "tuned.toml", progress=heard_all)
        tuning = result.tuning
        assert tuning.met
        assert tuning.lowered.loss(tuning.reference) > 0.05, "everything in 8 bits has to fail for this test"
        assert tuning.nodes == ("matmul_4",)
        assert tuning.share > 0.7
        assert tuning.evaluations <= 6
        profile = DeploymentProfile.load(tmp_path / "tuned.toml")
        assert profile == result.profile
        assert profile.keep == ("matmul_4",)
        built = self.built(tmp_path)
        assert {each.artifact: each.value for each in built.metrics}["lowered"] == tuning.tuned.value
        assert built.digests["lowered"] == tuning.graph, "what was judged is what ships"

    def test_16_bits_are_measured_before_they_are_promised(self, job, tmp_path):
        """With everything kept ``best`` computes in float16, which this budget does not forgive either."""
        result = trtpipe.tune(job("best", metric="cosine"), trtpipe.Budget(max_drop=1e-12), tmp_path / "tuned.toml")
        tuning = result.tuning
        assert not tuning.met
        assert tuning.complete
        assert tuning.graph
        assert 0 < tuning.tuned.loss(tuning.reference) < tuning.lowered.loss(tuning.reference)
        assert tuning.evaluations <= 6

    def test_all_kept_is_float32(self, job, tmp_path):
        """Four classes do not pay in 8 bits: the head is in no group, and must not be lowered for want of others."""
        save(network(classes=4), tmp_path / "net.onnx")
        tuning = trtpipe.tune(job(metric="cosine"), trtpipe.Budget(max_drop=1e-12), tmp_path / "tuned.toml").tuning
        assert tuning.met
        assert len(tuning.nodes) == 4
        built = self.built(tmp_path)
        assert built.passed
        assert built.metrics[-1].value == tuning.tuned.value == 1

    def built(self, tmp_path) -> trtpipe.ParityReport:
        """What the profile and the recipe that were written make."""
        profile = DeploymentProfile.load(tmp_path / "tuned.toml")
        recipe = CalibrationRecipe.load(tmp_path / "tuned.calib.toml")
        settings = Settings(cache_dir=tmp_path / "cache")
        job = trtpipe.make_job(
            str(tmp_path / "net.onnx"), profile=profile, recipe=recipe, simplify=False, settings=settings
        )
        parity = stages.build(job, tmp_path / "out").parity
        assert parity is not None
        return parity

    def test_free_repairs_come_first(self, job, tmp_path, heard_all):
        found = trtpipe.tune(
            job(corrections="auto"), trtpipe.Budget(max_drop=0.05), tmp_path / "t.toml", progress=heard_all
        )
        tuning = found.tuning
        assert tuning.met
        assert tuning.nodes == ()
        assert tuning.share == 1
        assert tuning.evaluations <= 4
        assert any(correction.startswith("smooth") for correction in tuning.calibration.corrections)
        assert {each.method for each in tuning.calibrations} == {"max", "percentile", "mse", "entropy", "auto"}
        assert tuning.calibration == min(
            (each for each in tuning.calibrations if each.loss is not None), key=lambda each: each.loss
        )
        own = trtpipe.tune(
            job(corrections="auto"), trtpipe.Budget(max_drop=0.05), tmp_path / "t.toml", recalibrate=False
        )
        assert [each.method for each in own.tuning.calibrations] == ["max"]

    def test_a_tensor_too_wide_for_8_bits_is_smoothed_and_nothing_is_kept(self, job, tmp_path):
        save(network(1000.0), tmp_path / "net.onnx")  # too wide for the methods that see one tensor at a time
        tuning = trtpipe.tune(job(corrections="auto"), trtpipe.Budget(max_drop=0.05), tmp_path / "t.toml").tuning
        assert any(correction.startswith("smooth") for correction in tuning.calibration.corrections)
        assert tuning.calibration.not_quantizable == 0
        assert (tuning.met, tuning.share, tuning.nodes) == (True, 1, ())

    def test_what_calibration_kept_is_kept_when_more_is(self, tmp_path):
        path = save(spectrogram(), tmp_path / "net.onnx")
        np.savez(tmp_path / "calib.npz", **sounds(1))
        feed = sounds(2)
        np.savez(tmp_path / "eval.npz", **feed, labels=run(spectrogram(), feed)["y"].argmax(axis=1))
        evaluation = {"source": str(tmp_path / "eval.npz"), "labels": "labels", "batch": 64, "metric": "cosine"}
        recipe = {"data": {"source": str(tmp_path / "calib.npz")}, "evaluation": evaluation}
        shapes = {"x": {"min": [1, 128], "opt": [32, 128], "max": [64, 128]}}
        made = trtpipe.make_job(
            str(path),
            profile=DeploymentProfile.model_validate({"precision": "int8", "shapes": shapes}),
            recipe=CalibrationRecipe.model_validate(recipe),
            settings=Settings(cache_dir=tmp_path / "cache"),
            simplify=False,
            engines=False,
        )
        alone = trtpipe.sensitivity(made, samples=8)
        found = trtpipe.tune(made, trtpipe.Budget(max_drop=1e-4), tmp_path / "t.toml", recalibrate=False)
        assert found.tuning.calibration.kept == ("matmul_0",)
        assert "matmul_0" not in {node for group in alone.groups for node in group.nodes}
        assert found.tuning.nodes, "the budget has to need more"
        assert set(found.profile.keep) == {"matmul_0", *found.tuning.nodes}

    def test_best_names_what_may_be_in_8_bits(self, job, tmp_path):
        result = trtpipe.tune(job("best"), trtpipe.Budget(max_drop=0.05), tmp_path / "t.toml")
        assert result.tuning.met
        assert result.tuning.nodes == ("matmul_4",)
        assert result.profile.precision == "best"
        assert "matmul_4" not in result.profile.int8_nodes
        assert len(result.profile.int8_nodes) == 4
        built = stages.build(
            trtpipe.make_job(str(tmp_path / "net.onnx"), profile=DeploymentProfile.load(tmp_path / "t.toml"),
                         recipe=result.recipe, simplify=False, settings=Settings(cache_dir=tmp_path / "cache")),
            tmp_path / "out",
        )  # fmt: skip
        assert built.accurate
        assert built.parity is not None
        assert {each.artifact: each.value for each in built.parity.metrics}["lowered"] == result.tuning.tuned.value

    @pytest.mark.slow
    def test_a_detector_takes_few_evaluations_and_is_judged_image_by_image(self, job, tmp_path):
        made = job(metric="map", output="head_boxes,head_scores")
        proto, x = detector(), normal(64, 32, seed=4)
        save(proto, tmp_path / "net.onnx")
        found = run(proto, {"x": x})
        classes = found["head_scores"].argmax(axis=2)[..., None]
        np.savez(tmp_path / "eval.npz", x=x, labels=np.concatenate([classes, found["head_boxes"]], axis=2))
        results = [
            trtpipe.tune(replace(made, settings=Settings(cache_dir=tmp_path / name)), trtpipe.Budget(max_drop=0.02),
                         tmp_path / f"{name}.toml")
            for name in ("a", "b")
        ]  # fmt: skip
        tuning = results[0].tuning
        assert tuning.met
        assert tuning.nodes == ("matmul_4",)
        assert tuning.evaluations <= 6
        assert re.match(r"paired randomization, \d+ regressed, \d+ improved of 64: loss", tuning.words)
        assert results[1].tuning == tuning, "measured again, with nothing kept"
        assert (tmp_path / "a.toml").read_bytes() == (tmp_path / "b.toml").read_bytes()

    def test_the_same_twice_and_without_new_evaluations(self, job, tmp_path, monkeypatch):
        budget = trtpipe.Budget(max_drop=0.05)
        first = trtpipe.tune(job(), budget, tmp_path / "a.toml")
        monkeypatch.setattr("trtpipe.accuracy.metrics.measure_metric", lambda *args: pytest.fail("evaluated again"))
        assert trtpipe.tune(job(), budget, tmp_path / "b.toml").tuning == first.tuning
        assert (tmp_path / "a.toml").read_bytes() == (tmp_path / "b.toml").read_bytes()

    def test_an_interrupted_search_goes_on(self, job, tmp_path, monkeypatch):
        from trtpipe.accuracy import metrics

        real, calls = metrics.measure_metric, []

        def interrupted(*args):
            calls.append(args[0])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(metrics, "measure_metric", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trtpipe.tune(job(), trtpipe.Budget(max_drop=0.05), tmp_path / "t.toml")
        assert not (tmp_path / "t.toml").exists()
        before = len(calls)
        result = trtpipe.tune(job(), trtpipe.Budget(max_drop=0.05), tmp_path / "t.toml")
        assert len(calls) - before == result.tuning.evaluations - 2, "two of them were known"

    def test_time_that_is_up_and_goes_on(self, job, tmp_path):
        budget = trtpipe.Budget(max_drop=0.05)
        early = trtpipe.tune(job(), budget, tmp_path / "t.toml", seconds=1e-9).tuning
        assert not early.complete
        assert early.met
        assert len(early.trials) < 2
        for _ in range(20):
            later = trtpipe.tune(job(), budget, tmp_path / "t.toml", seconds=1e-9).tuning
            if later.complete:
                break
        assert later.nodes == ("matmul_4",)

    def test_a_budget_that_cannot_be_met(self, job, tmp_path):
        job_ = job()
        with np.load(tmp_path / "eval.npz") as data:
            x, labels = data["x"], data["labels"].copy()
        wrong = slice(len(labels) // 4)  # a quarter of the labels is wrong
        labels[wrong] = (labels[wrong] + 1) % 10
        np.savez(tmp_path / "eval.npz", x=x, labels=labels)
        result = trtpipe.tune(job_, trtpipe.Budget(least="100%", metric="top1"), tmp_path / "t.toml")
        assert not result.tuning.met
        assert result.tuning.tuned.value == result.tuning.reference.value == pytest.approx(0.75)
        assert result.tuning.share == 0

    def test_a_least_value(self, job, tmp_path):
        tuning = trtpipe.tune(job(), trtpipe.Budget(least=0.9), tmp_path / "t.toml").tuning
        assert tuning.met
        assert tuning.tuned.value >= 0.9

    def test_metrics_without_labels(self, job, tmp_path):
        job_ = job(labels="", source=str(tmp_path / "calib.npz"), metric="cosine")
        tuning = trtpipe.tune(job_, trtpipe.Budget(max_drop=0.01), tmp_path / "t.toml").tuning
        assert tuning.met
        assert tuning.reference.value == pytest.approx(1.0)
        assert tuning.nodes == ("matmul_4",)

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"metric": ""}, "tuning needs a metric"),
            ({"labels": "", "source": "calib.npz"}, "no labels, so top1 cannot be measured"),
            ({"metric": "nan.py:evaluate"}, "returned nan"),
            ({"metric": "raises.py:evaluate"}, "raised ValueError: no"),
        ],
    )
    def test_bad_input_shows_at_once_and_leaves_what_was_there(self, job, tmp_path, monkeypatch, options, complaint):
        monkeypatch.setattr("trtpipe.stages.calibrate.Calibrate.run", lambda *args: pytest.fail("calibrated first"))
        (tmp_path / "nan.py").write_text("def evaluate(run): return {'m': float('nan')}")
        (tmp_path / "raises.py").write_text("def evaluate(run): raise ValueError('no')")
        (tmp_path / "t.toml").write_text("earlier")
        here = {key: str(tmp_path / value) if value.endswith(("npz", "evaluate")) else value
                for key, value in options.items()}  # fmt: skip
        with pytest.raises(InputError, match=complaint):
            trtpipe.tune(job(**here), trtpipe.Budget(max_drop=0.01), tmp_path / "t.toml")
        assert (tmp_path / "t.toml").read_text() == "earlier"

    def test_another_metric_than_the_budgets(self, job, tmp_path):
        with pytest.raises(InputError, match="--min top5: the metric is top1"):
            trtpipe.tune(job(), trtpipe.Budget(least=0.9, metric="top5"), tmp_path / "t.toml")

    def test_what_is_written_must_be_a_profile(self, job, tmp_path):
        with pytest.raises(InputError, match="tuning writes a profile"):
            trtpipe.tune(job(), trtpipe.Budget(max_drop=0.1), tmp_path / "t.json")
