"""The public functions of accuracy, on a world that has been built."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import numpy as np
import onnx
import pytest

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.digest import sha256_json
from trtpipe.errors import InputError
from trtpipe.latency import alternating
from trtpipe.regression.baseline import baseline_of
from trtpipe.regression.bundle import read_build
from trtpipe.regression.gate import check_build

TIGHT = {"atol": 0, "rtol": 0, "stat": "max", "min_cosine": -1, "min_snr_db": -99}


@pytest.fixture
def bundle(world, heard_all):
    """The folder of a build that passed."""
    return trtpipe.build(world.job(), world.folder / "out", progress=heard_all).out


def profile(**tolerance):
    return DeploymentProfile.model_validate({"tolerance": tolerance})


class TestRejudge:
    def test_other_tolerances_without_running_anything(self, bundle, monkeypatch):
        from trtpipe.backends.onnxruntime import OnnxRuntime

        monkeypatch.setattr(OnnxRuntime, "open", lambda *args: pytest.fail("something ran"))
        before = trtpipe.ParityReport.read(bundle / "parity.json")
        assert before.passed
        tight = trtpipe.reevaluate(bundle / "parity.json", profile(**TIGHT)).parity
        assert tight is not None
        assert not tight.passed
        assert tight.failing_stage == "lower"
        same = trtpipe.reevaluate(bundle, profile(atol=100.0), bundle / "again.json")
        assert same.out == bundle / "again.json"
        after = trtpipe.ParityReport.read(bundle / "again.json")
        for old, new in zip(before.comparisons, after.comparisons, strict=True):
            assert [o.model_dump(exclude={"tolerance"}) for o in old.outputs] == [
                o.model_dump(exclude={"tolerance"}) for o in new.outputs
            ]

    def test_the_metrics_gate_too(self, bundle):
        path = bundle / "parity.json"
        content = json.loads(path.read_text())
        content["metrics"][-1]["value"] -= 0.05
        path.write_text(json.dumps(content))
        for drop, passed in ((0.01, False), (0.2, True)):
            gate = DeploymentProfile.model_validate({"tolerance": {"atol": 100.0}, "accuracy": {"max_drop": drop}})
            assert trtpipe.reevaluate(path, gate).accurate is passed
        for least, passed in (("94%", True), ("96%", False)):
            limits = {"max_drop": 0.2, "min_metric": {"top1": least}}
            gate = DeploymentProfile.model_validate({"tolerance": {"atol": 100.0}, "accuracy": limits})
            assert trtpipe.reevaluate(path, gate).accurate is passed, "0.95 is measured"

    def test_a_tolerance_for_an_output_that_is_not_there(self, bundle):
        with pytest.raises(InputError, match="tolerance for 'z': no such output"):
            trtpipe.reevaluate(bundle, profile(outputs={"z": {"atol": 1.0}}))

    def test_files_that_do_not_belong_together(self, bundle, tmp_path):
        (bundle / "parity.json").write_text((bundle / "parity.json").read_text().replace('"lowered"', '"other"'))
        with pytest.raises(InputError, match=r"outputs\.json: holds outputs of .*lowered.*, the report is on .*other"):
            trtpipe.reevaluate(bundle, profile())
        (bundle / "outputs.json").unlink()
        with pytest.raises(InputError, match=r"outputs\.json: no such file"):
            trtpipe.reevaluate(bundle, profile())


class TestUserMetrics:
    EVALUATE = (
        "import numpy as np\n"
        "def evaluate(run, limit=None):\n"
        "    y = run({'x': np.ones((2, 3, 8, 8), np.float32)})['y']\n"
        "    return {'mean': float(y.mean()), 'n': 2.0}\n"
    )

    def test_an_evaluation_runs_every_artifact(self, world, heard_all):
        (world.folder / "case.py").write_text(self.EVALUATE)
        recipe = {"evaluation": {"metric": f"{world.folder / 'case.py'}:evaluate"}}
        result = trtpipe.build(
            world.job(recipe=recipe, accuracy={"max_drop": "100%"}), world.folder / "out", progress=heard_all
        )
        assert result.parity is not None
        values = {value.artifact: value for value in result.parity.metrics}
        assert list(values) == ["model", "simplified", "lowered"]
        assert values["model"].metric == "mean"
        assert values["model"].samples == 2
        assert values["model"].value == pytest.approx(values["simplified"].value, abs=1e-5)
        assert values["model"].value != values["lowered"].value

    def test_a_baseline_tells_that_the_function_changed(self, world, heard_all, tmp_path):
        """Its data may be in a file of its own, and then nothing else shows that the figures are of other samples."""
        (world.folder / "metric").mkdir()
        (world.folder / "metric" / "data.npy").write_bytes(b"samples")
        reads = "from pathlib import Path\nDATA = (Path(__file__).parent / 'data.npy').read_bytes()\n"
        (world.folder / "metric" / "case.py").write_text(reads + self.EVALUATE)
        recipe = {"evaluation": {"metric": f"{world.folder / 'metric' / 'case.py'}:evaluate"}}
        job = world.job(recipe=recipe, accuracy={"max_drop": "100%"})
        out = trtpipe.build(job, world.folder / "out", progress=heard_all).out
        trtpipe.save_baseline(out, tmp_path / "b.json")
        assert "metric" not in named(trtpipe.check(out, tmp_path / "b.json"))
        (world.folder / "metric" / "data.npy").write_bytes(b"other samples")
        again = trtpipe.build(job, world.folder / "again", progress=heard_all).out
        found = named(trtpipe.check(again, tmp_path / "b.json"))["metric"]
        assert found.status == "note"
        assert "the file of case.py:evaluate, or one that it reads, changed" in found.message

    def test_another_content_of_the_file_is_another_verification(self, world, heard_all):
        recipe = {"evaluation": {"metric": f"{world.folder / 'case.py'}:evaluate"}}
        for body, state in ((self.EVALUATE, "built"), (self.EVALUATE, "hit"), (self.EVALUATE + "\n", "built")):
            (world.folder / "case.py").write_text(body)
            job = world.job(recipe=recipe, accuracy={"max_drop": "100%"})
            assert {s.label: s.state for s in world.run(job, heard_all)}["verify"] == state

    def test_a_function_that_raises_leaves_the_earlier_result(self, world, heard_all, bundle):
        before = {path.name: path.read_bytes() for path in bundle.iterdir()}
        (world.folder / "case.py").write_text("def evaluate(run):\n    return {'m': float('nan')}\n")
        recipe = {"evaluation": {"metric": f"{world.folder / 'case.py'}:evaluate"}}
        with pytest.raises(InputError, match="returned nan for 'm'"):
            trtpipe.build(world.job(recipe=recipe), bundle, progress=heard_all)
        assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before

    def test_structured_labels_reach_the_metric(self, world, heard_all):
        with np.load(world.folder / "eval.npz") as old:
            np.savez(world.folder / "eval.npz", x=old["x"], words=np.tile(old["labels"][:, None], (1, 2)))
        (world.folder / "m.py").write_text("def m(outputs, labels): return labels[:, 1] == outputs['y'].argmax(axis=1)")
        recipe = {"evaluation": {"metric": f"{world.folder / 'm.py'}:m", "source": str(world.folder / "eval.npz"),
                                 "labels": "words", "batch": 8}}  # fmt: skip
        result = trtpipe.build(
            world.job(recipe=recipe, accuracy={"max_drop": "100%"}), world.folder / "out", progress=heard_all
        )
        assert result.parity is not None
        assert result.parity.metrics[0].value == 1


def reduced(world, **noise):
    """The world's model with one weight tensor changed by seeded noise of a share of its largest magnitude."""
    proto = onnx.load(world.model)
    for name, (share, seed) in noise.items():
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        array = onnx.numpy_helper.to_array(tensor)
        extra = np.random.default_rng(seed).normal(size=array.shape) * share * np.abs(array).max()
        tensor.CopyFrom(onnx.numpy_helper.from_array((array + extra).astype(np.float32), name))
    onnx.save(proto, world.model)


def named(report):
    return {finding.name: finding for finding in report.findings}


class TestBaseline:
    @pytest.fixture
    def baseline(self, bundle, tmp_path):
        trtpipe.save_baseline(bundle, tmp_path / "baseline.json")
        return tmp_path / "baseline.json"

    def again(self, world, heard_all, **options):
        return trtpipe.build(
            world.job(accuracy={"max_drop": "100%"}, **options), world.folder / "new", progress=heard_all
        ).out

    def test_an_unchanged_build_is_no_regression_and_says_what_could_be_seen(self, world, bundle, baseline):
        report = trtpipe.check(bundle, baseline)
        assert report.passed
        metric = named(report)["top1 of lowered"]
        assert metric.status == "ok"
        assert "Not statistically significant (p = 1). McNemar exact, 0 regressed, 0 improved of 16;" in metric.message
        assert "Minimum detectable drop (80 % power): 0.3125" in metric.message  # five of sixteen samples
        assert named(report)["latency"].status == "skipped"

    def test_rebuilds_with_nothing_changed_are_none(self, world, heard_all, baseline, tmp_path):
        """From nothing each; ``benchmarks/regression.py`` does a hundred."""
        for number in range(3):
            fresh = Settings(cache_dir=tmp_path / f"cache{number}")
            out = trtpipe.build(world.job(settings=fresh), tmp_path / f"out{number}", progress=heard_all).out
            assert trtpipe.check(out, baseline).passed, number

    @pytest.mark.parametrize("seed", range(5))
    def test_noise_on_one_weight_that_lowers_the_metric_is_caught(self, world, heard_all, baseline, seed):
        """1 % of the largest weight is enough only with luck, so the same rule is tried with more noise too."""
        for share in (0.01, 0.1, 0.5):
            reduced(world, v=(share, seed))
            made = self.again(world, heard_all)  # in new.rejected where it fails its own gate
            report = trtpipe.check(made, baseline)
            old, new = (trtpipe.ParityReport.read(f / "parity.json") for f in (world.folder / "out", made))
            lower = new.metrics[-1].value < old.metrics[-1].value
            assert (named(report)["top1 of lowered"].status == "failed") is lower
            assert ("accuracy gate of the build" in named(report)) is not new.passed, "guessing is no accuracy"
            assert report.gate_passed("accuracy") is (new.passed and not lower)
            assert "1 of" in named(report)["weights"].message

    def test_a_metric_that_falls_on_many_samples_is_caught_whatever_changed(self, world, heard_all, baseline):
        proto = onnx.load(world.model)
        for tensor in proto.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            changed = np.roll(array, 1, 0) if tensor.name in ("v", "bias") else array * np.float32(1.001)
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), tensor.name))
        onnx.save(proto, world.model)
        report = trtpipe.check(self.again(world, heard_all), baseline)
        assert not report.gate_passed("accuracy")
        finding = named(report)["top1 of lowered"]
        assert "Regression. Statistically significant (p = " in finding.message
        assert finding.message.startswith("1.0000 before, 0.0000 now")

    def test_settings_that_changed_are_named(self, world, heard_all, baseline):
        report = trtpipe.check(self.again(world, heard_all, recipe={"method": "max"}), baseline)
        assert "calibration.method: percentile -> max" in named(report)["settings"].message

    def test_without_a_metric_parity_decides(self, world, heard_all, tmp_path):
        recipe = {"evaluation": None}
        out = trtpipe.build(world.job(recipe=recipe), world.folder / "out", progress=heard_all).out
        trtpipe.save_baseline(out, tmp_path / "b.json")
        assert trtpipe.check(out, tmp_path / "b.json").passed
        coarse = {"evaluation": None, "method": "percentile", "percentile": 60.0}
        worse = trtpipe.check(self.again(world, heard_all, recipe=coarse), tmp_path / "b.json")
        assert not worse.gate_passed("accuracy")
        assert named(worse)["parity of lowered, output y"].status == "failed"

    @pytest.mark.parametrize(("before", "now", "held"), [(1.0, 1.0, True), (0.98, 0.96, True), (0.98, 0.95, False),
                                                         (1.0, 0.99, False)])  # fmt: skip
    def test_integers_regress_where_twice_as_many_differ(self, bundle, before, now, held):
        """Their signal-to-noise ratio is -inf before and after: only the share tells."""

        def build(share):
            found = read_build(bundle)
            outputs = [c.outputs[0] for c in found.parity.comparisons]
            limit = outputs[0].tolerance.model_copy(update={"min_agreement": 0.9})
            figures = {"cosine": None, "agreement": share, "mean_abs": 1 - share, "max_abs": 1.0, "snr_db": -math.inf}
            figures["tolerance"] = limit
            comparisons = tuple(
                comparison.model_copy(update={"outputs": (output.model_copy(update=figures),)})
                for comparison, output in zip(found.parity.comparisons, outputs, strict=True)
            )
            parity = found.parity.model_copy(update={"comparisons": comparisons, "metrics": (), "evaluation": ""})
            return dataclasses.replace(found, parity=parity)

        report = check_build(build(now), baseline_of(build(before)), "b.json")
        finding = named(report)["parity of lowered, output y"]
        assert finding.message == f"exact match {before:.2%} before, {now:.2%} now"
        assert report.gate_passed("accuracy") is held


class TestBaselinesThatDoNotFit:
    @pytest.fixture
    def baseline(self, bundle, tmp_path):
        trtpipe.save_baseline(bundle, tmp_path / "baseline.json")
        return tmp_path / "baseline.json"

    def edited(self, baseline, **fields):
        content = json.loads(baseline.read_text()) | fields
        baseline.write_text(json.dumps(content))
        return baseline

    @pytest.mark.parametrize("name", ["kernels", "chance", "weights"])
    def test_values_that_cannot_be_are_named(self, bundle, baseline, name):
        content = json.loads(baseline.read_text())
        content["engines"]["sm89"]["kernels"] = -1 if name == "kernels" else 1
        if name == "chance":
            content["metrics"] = [{**value, "chance": 0.999} for value in content["metrics"]]
        if name == "weights":
            content["weights"] = {}
        field = {"weights": "share no weight"}.get(name, name)
        with pytest.raises(InputError, match=rf"baseline\.json: .*{field}"):
            trtpipe.check(bundle, self.edited(baseline, **content))

    def test_another_model(self, bundle, baseline):
        contract = json.loads(baseline.read_text())["contract"]
        contract["inputs"][0]["name"] = "other"
        with pytest.raises(InputError, match=r"baseline\.json: a baseline of another model: inputs were \['other'\]"):
            trtpipe.check(bundle, self.edited(baseline, contract=contract))

    def test_another_graph_with_the_same_interface(self, bundle, baseline):
        with pytest.raises(InputError, match="another model: they share no weight"):
            trtpipe.check(bundle, self.edited(baseline, weights={"q": "0"}))

    def test_other_data(self, bundle, baseline):
        with pytest.raises(InputError, match="measured on other data"):
            trtpipe.check(bundle, self.edited(baseline, data_digest="0"))

    def test_another_metric(self, bundle, baseline):
        content = json.loads(baseline.read_text())
        metrics = [value | {"metric": "top5"} for value in content["metrics"]]
        evaluation = content["evaluation"].replace("top1", "top5")
        with pytest.raises(InputError, match=r"has another metric \(top5.*; now top1"):
            trtpipe.check(bundle, self.edited(baseline, evaluation=evaluation, metrics=metrics))

    def test_figures_of_another_metric_than_it_names(self, bundle, baseline):
        with pytest.raises(InputError, match=r"baseline\.json: metrics: model: metric: top1, but top5 was measured"):
            trtpipe.check(bundle, self.edited(baseline, evaluation="top5"))

    @pytest.mark.parametrize("fields", [{"schema_version": 2}, {"schema_version": 99, "of_the_future": 1}])
    def test_another_schema(self, bundle, baseline, fields):
        with pytest.raises(InputError, match=r"baseline\.json: is of schema \d+: .*this one reads 4"):
            trtpipe.check(bundle, self.edited(baseline, **fields))

    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [
            ({"value": "NaN"}, r"baseline\.json: metrics\.2\.value: Input should be a finite number"),
            ({"value": "Infinity"}, r"baseline\.json: metrics\.2\.value: Input should be a finite number"),
            ({"parts": "!"}, r"baseline\.json: metrics: lowered: scores: the scores of single samples are damaged"),
            ({"samples": 5}, r"baseline\.json: metrics: lowered: scores: more than 5 scores for 5 samples"),
        ],
    )
    def test_damaged_figures(self, bundle, baseline, fields, complaint):
        metrics = json.loads(baseline.read_text())["metrics"]
        (metrics[2] if "value" in fields else metrics[2]["scores"]).update(fields)
        with pytest.raises(InputError, match=complaint):
            trtpipe.check(bundle, self.edited(baseline, metrics=metrics))

    def test_another_precision(self, bundle, baseline):
        with pytest.raises(InputError, match="the baseline is fp8, the build int8"):
            trtpipe.check(bundle, self.edited(baseline, precision="fp8"))

    def test_another_machine_only_leaves_latency_out(self, bundle, baseline):
        latency = json.loads(baseline.read_text())["latency"]
        latency["machine"]["cpu"] = "another"
        report = trtpipe.check(bundle, self.edited(baseline, latency=latency), baseline_build=bundle)
        assert report.passed
        assert "another machine" in named(report)["latency"].message

    def test_files_that_are_none(self, bundle, baseline, tmp_path):
        with pytest.raises(InputError, match="no bundle lies there"):
            trtpipe.check(tmp_path, baseline)
        with pytest.raises(InputError, match="a Baseline record"):
            trtpipe.check(bundle, bundle / "parity.json")
        with pytest.raises(InputError, match="cannot be read"):
            trtpipe.check(bundle, tmp_path / "none.json")

    def test_a_bundle_edited_by_hand(self, bundle, baseline):
        (bundle / "lowered.onnx").write_bytes(b"x")
        with pytest.raises(InputError, match=r"lowered\.onnx: changed since it was built"):
            trtpipe.check(bundle, baseline)
        (bundle / "lowered.onnx").unlink()
        with pytest.raises(InputError, match="not there"):
            trtpipe.check(bundle, baseline)

    @staticmethod
    def resealed(bundle):
        """The manifest is made to fit the files of the bundle as they are now."""
        manifest = json.loads((bundle / "manifest.json").read_text())
        for artifact in manifest["artifacts"]:
            for file in artifact["files"]:
                content = (bundle / file["name"]).read_bytes()
                file.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            artifact["digest"] = sha256_json([file["sha256"] for file in artifact["files"]])
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    def test_a_plan_that_is_not_the_one_of_its_record(self, bundle, baseline):
        (bundle / "sm89.plan").write_bytes(b"XXXX")
        self.resealed(bundle)
        with pytest.raises(InputError, match=r"sm89\.plan\.json: digests: plan: not the digest of sm89\.plan"):
            trtpipe.check(bundle, baseline)
        for shown in (bundle, bundle / "sm89.plan.json"):
            [words] = trtpipe.inspect(shown).altered
            assert "digests: plan: not the digest of sm89.plan" in words

    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [
            ({"target": "sm90"}, r"sm89\.plan\.json: target: sm90, of the engine for sm89"),
            ({"digests": {}}, r"sm89\.plan\.json: digests: plan: not the digest"),
            ({"flavor": "tensorrt-rtx"}, r"sm89\.plan: no TensorRT engine"),
        ],
    )
    def test_a_record_that_is_not_the_one_of_its_plan(self, bundle, baseline, fields, complaint):
        record = json.loads((bundle / "sm89.plan.json").read_text())
        (bundle / "sm89.plan.json").write_text(json.dumps(record | fields))
        self.resealed(bundle)
        with pytest.raises(InputError, match=complaint):
            trtpipe.check(bundle, baseline)

    def test_a_plan_without_a_record(self, bundle, baseline):
        manifest = json.loads((bundle / "manifest.json").read_text())
        [engine] = [artifact for artifact in manifest["artifacts"] if artifact["label"] == "engine:sm89"]
        engine["files"] = engine["files"][:1]
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        self.resealed(bundle)
        with pytest.raises(InputError, match=r"artifacts: engine:sm89: files: sm89\.plan\.json is missing"):
            trtpipe.check(bundle, baseline)

    def test_an_engine_of_another_graph(self, bundle, baseline):
        record = json.loads((bundle / "sm89.plan.json").read_text())
        record["digests"]["lowered"] = "0" * 64
        (bundle / "sm89.plan.json").write_text(json.dumps(record))
        self.resealed(bundle)
        with pytest.raises(InputError, match=r"digests: lowered: the engine was not built from the one here"):
            trtpipe.check(bundle, baseline)


class TestSaving:
    def test_a_baseline_is_replaced_only_with_a_reason_which_is_kept(self, bundle, tmp_path):
        file = tmp_path / "b.json"
        trtpipe.save_baseline(bundle, file)
        with pytest.raises(InputError, match="there is a baseline already"):
            trtpipe.save_baseline(bundle, file)
        trtpipe.save_baseline(bundle, file, "retrained on more data")
        made = trtpipe.save_baseline(bundle, file, "again")
        assert [update.reason for update in made.history] == ["retrained on more data", "again"]
        assert set(made.history[0].metrics) == {"model", "simplified", "lowered"}
        assert [path.name for path in tmp_path.glob("*b.json*")] == ["b.json"]

    def test_a_bad_build_is_no_baseline(self, world, heard_all, tmp_path):
        result = trtpipe.build(world.job(tolerance=TIGHT), world.folder / "bad", progress=heard_all)
        assert result.out is not None
        with pytest.raises(InputError, match="failed its own gates"):
            trtpipe.save_baseline(result.out, tmp_path / "b.json")
        assert not (tmp_path / "b.json").exists()

    def test_on_the_same_machine_both_builds_run_in_turns(self, world, heard_all, bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(alternating, "_ROUND_SECONDS", 0.001)
        trtpipe.save_baseline(bundle, tmp_path / "b.json")
        report = trtpipe.check(bundle, tmp_path / "b.json", baseline_build=bundle, progress=heard_all)
        finding = named(report)["latency of lowered"]
        assert heard_all.steps[-1] == ("latency", "built")
        assert "in turns" in finding.message
        assert finding.status in ("ok", "note"), "a CPU's latency is not judged"

    def test_latency_needs_the_very_build_of_the_baseline(self, world, heard_all, bundle, tmp_path):
        trtpipe.save_baseline(bundle, tmp_path / "b.json")
        other = trtpipe.build(world.job(recipe={"method": "max"}), world.folder / "other", progress=heard_all).out
        with pytest.raises(InputError, match="not the build that the baseline was made of"):
            trtpipe.check(bundle, tmp_path / "b.json", baseline_build=other)
