from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixtures_stages import consumed, run_stage
from models import conv_net, embedding, model, normal, run

from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import Artifact, FileEntry
from trtpipe.backends.base import Refusal
from trtpipe.backends.null import Null
from trtpipe.errors import InputError, StageError
from trtpipe.isolation.remote_runner import RemoteRunner
from trtpipe.progress import NullProgress
from trtpipe.report.verdict import Evidence, verdict_of
from trtpipe.stages.observe import Observe
from trtpipe.stages.verify import Verify

STAGE = Verify()
SHAPES = {"x": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}}


def shifted(amount: float) -> onnx.ModelProto:
    """conv_net with another bias of its classifier."""
    proto = conv_net()
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(normal(5) + np.float32(amount), "bias"))
    return proto


def permuted() -> onnx.ModelProto:
    """conv_net whose classes come in another order."""
    proto = conv_net()
    for name, axis in (("v", 0), ("bias", 0)):
        tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(tensor), 1, axis), name))
    return proto


@pytest.fixture
def go(make_job, table, workdir, heard_all):
    """The report of models, by label."""

    def verify(data="", evaluation="", labels="labels", recipe=None, given=None, **things):
        profile = {name: things.pop(name) for name in tuple(things) if name not in ("model", "simplified", "lowered")}
        job = make_job(recipe=recipe or {}, **({"shapes": SHAPES} | profile))
        inputs = given or table(data=data, evaluation=evaluation, labels=labels, **things)
        draft = run_stage(STAGE, job, inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert sorted(path.name for path in workdir.iterdir()) == ["outputs.json", "parity.json"]
        for warning in STAGE.warnings(draft.finish(), inputs):
            heard_all.warn(warning)
        return ParityReport.read(draft.path)

    return verify


@pytest.fixture
def labeled(tmp_path):
    """Evaluation data whose labels are what conv_net itself says, except for the first ``wrong`` of 40."""

    def write(wrong=0, labels=True):
        x = normal(40, 3, 8, 8) + 8 * normal(40, 3, 1, 1, seed=7)  # of several classes
        said = run(conv_net(), {"x": x})["y"].argmax(axis=1)
        said[:wrong] = (said[:wrong] + 1) % 5
        np.savez(tmp_path / "eval.npz", x=x, **({"labels": said} if labels else {}))
        return str(tmp_path / "eval.npz")

    return write


EVALUATION = {"evaluation": {"source": "given", "labels": "labels"}}


class TestAgreement:
    def test_equal_graphs_agree(self, go):
        report = go(model=conv_net(), simplified=conv_net(), lowered=conv_net())
        assert report.passed
        assert report.reasons == ()
        assert report.reference == "model"
        assert [comparison.artifact for comparison in report.comparisons] == ["simplified", "lowered"]
        assert all("onnxruntime" in comparison.runner for comparison in report.comparisons)
        assert [comparison.outputs[0].max_abs for comparison in report.comparisons] == [0, 0]

    def test_a_graph_that_differs_fails_with_numbers(self, go):
        report = go(model=conv_net(), simplified=conv_net(), lowered=shifted(2.0))
        assert not report.passed
        [reason] = report.reasons
        assert reason.startswith("lowered: output 'y' differs from model: mean 2, max 2 (")
        assert "max 2" in reason
        assert [comparison.passed for comparison in report.comparisons] == [True, False]

    @pytest.mark.parametrize(("value", "least"), [("x", 17), ("w", 30)])
    def test_a_model_that_rounds_activations_itself_has_the_tolerance_of_8_bits(self, go, value, least):
        proto = model(
            f"(float[N,3,8,8] x) => (float[N,3,8,8] y) {{ q = QuantizeLinear({value}, s) d = DequantizeLinear(q, s) "
            "y = Mul(x, d) }",
            w=normal(1, 3, 8, 8), s=np.float32(0.1),
        )  # fmt: skip
        (comparison,) = go(model=proto, lowered=proto, precision="fp16").comparisons
        assert comparison.outputs[0].tolerance.min_snr_db == least

    def test_links_of_the_chain_name_the_stage_that_broke(self, go):
        good = go(model=conv_net(), simplified=conv_net(), lowered=conv_net())
        assert [(link.artifact, link.against) for link in good.links] == [("lowered", "simplified")]
        assert good.failing_stage == ""
        assert go(model=conv_net(), simplified=shifted(2.0), lowered=shifted(2.0)).failing_stage == "simplify"
        assert go(model=conv_net(), simplified=conv_net(), lowered=shifted(2.0)).failing_stage == "lower"

    def test_the_digests_are_those_of_the_very_files(self, go, tmp_path):
        report = go(model=conv_net(), lowered=shifted(0.0))
        assert report.digests == {
            name: FileEntry.of(tmp_path / "given" / f"{name}.onnx").sha256 for name in ("model", "lowered")
        }

    def test_classes_and_the_worst_element(self, go):
        output = go(model=conv_net(), lowered=permuted()).comparisons[0].outputs[0]
        assert output.top1_agreement is not None
        assert output.top1_agreement < 0.5
        assert output.top5_agreement == 1  # there are five classes
        assert len(output.worst_index) == 2

    def test_a_model_that_gives_class_numbers_alone_is_judged_by_them(self, go):
        right = model("(float[N,3,8,8] x) => (int64[N,8,8] label) { label = ArgMax<axis=1, keepdims=0>(x) }")
        wrong = model("(float[N,3,8,8] x) => (int64[N,8,8] label) { m = Neg(x) label = ArgMax<axis=1, keepdims=0>(m) }")
        report = go(model=right, simplified=right, lowered=wrong, precision="int8")
        assert report.failing_stage == "lower"
        [reason] = report.reasons
        assert reason.startswith("lowered: output 'label' against model: exact match ")
        assert ", limit 90.00% (first difference: feed 0, element [" in reason
        assert go(model=right, simplified=right, lowered=right, precision="int8").passed
        assert go(model=right, lowered=wrong, precision="int8", tolerance={"min_agreement": 0}).passed

    def test_class_numbers_beside_scores_are_told_of_and_judged_where_that_is_asked(self, go, heard_all):
        text = "(float[N,3,8,8] x) => (float[N,3,8,8] y, int64[N,8,8] label)"
        right = model(f"{text} {{ y = Identity(x) label = ArgMax<axis=1, keepdims=0>(x) }}")
        wrong = model(f"{text} {{ y = Identity(x) m = Neg(x) label = ArgMax<axis=1, keepdims=0>(m) }}")
        report = go(model=right, simplified=right, lowered=wrong, precision="int8")
        assert report.passed
        [warning] = [each for each in heard_all.warnings if "label" in each]
        assert warning.startswith("lowered: ")
        assert "--min-agreement label:SHARE" in warning
        tolerance = {"outputs": {"label": {"min_agreement": 0.9}}}
        assert (
            go(model=right, simplified=right, lowered=wrong, precision="int8", tolerance=tolerance).failing_stage
            == "lower"
        )

    @pytest.mark.parametrize(("amount", "passed"), [(0.005, True), (0.5, False)])
    def test_tolerances_are_the_profiles(self, go, amount, passed):
        tolerance = {"atol": 0.01, "rtol": 0, "stat": "max", "min_cosine": -1, "min_snr_db": -99}
        assert go(model=conv_net(), lowered=shifted(amount), tolerance=tolerance).passed is passed

    def test_each_precision_has_its_own_default(self, go):
        small = shifted(0.02)
        assert not go(model=conv_net(), lowered=small, precision="fp32").passed
        assert go(model=conv_net(), lowered=small, precision="int8").passed

    def test_simplified_must_agree_as_float32_whatever_the_precision(self, go):
        report = go(model=conv_net(), simplified=shifted(0.02), lowered=shifted(0.02), precision="int8")
        assert [comparison.passed for comparison in report.comparisons] == [False, True]

    def test_the_first_graph_there_is_the_reference(self, go):
        report = go(simplified=conv_net(), lowered=conv_net())
        assert report.reference == "simplified"
        with pytest.raises(StageError, match="nothing was compared"):
            go(lowered=conv_net())

    def test_16_bit_graphs_are_compared_with_storage_emulated(self, go):
        lowered = model("(float[N,2] x) => (float[N,2] y) { h = Cast<to=10>(x) m = Mul(h, h) y = Cast<to=1>(m) }")
        proto = model("(float[N,2] x) => (float[N,2] y) { y = Mul(x, x) }")
        report = go(model=proto, lowered=lowered, precision="fp16", shapes=())
        assert report.passed
        assert report.comparisons[0].runner.endswith("float16 storage emulated")
        assert report.overflows == ()

    @pytest.mark.parametrize("precision", ["fp16", "best"])
    def test_storage_that_overflows_fails_and_is_named(self, go, tmp_path, precision):
        """The output stays finite: only the watch on storage shows it."""
        np.savez(tmp_path / "data.npz", x=np.array([[3, 400]] * 8, np.float32))
        lowered = model(
            "(float[N,2] x) => (float[N,2] y) { h = Cast<to=10>(x) m = Mul(h, h) c = Min(m, top) y = Cast<to=1>(c) }",
            top=np.float16(100),
        )
        proto = model("(float[N,2] x) => (float[N,2] y) { m = Mul(x, x) y = Min(m, top) }", top=np.float32(100))
        report = go(model=proto, lowered=lowered, precision=precision, shapes=(), data=str(tmp_path / "data.npz"))
        assert not report.passed
        assert [(found.node, found.largest) for found in report.overflows] == [("mul_1", 160000)]
        assert report.reasons == ("lowered: 1 tensor overflows in 16-bit storage; 'm' of node 'mul_1' reaches 1.6e+05",)

    def test_a_graph_in_16_bits_that_is_off_is_failed_with_the_node_that_makes_it_so(self, go, tmp_path):
        np.savez(tmp_path / "data.npz", x=normal(8, 8))
        head = "(float[N,8] x) => (float[N,8] y) {"
        body = "s = Add(%s, c) t = Sub(s, c) u = Mul(t, k) %s }"
        exact = model(head + body % ("x", "y = Identity(u)"), c=np.float32(4000), k=np.float32(0.5))
        half = head + "h = Cast<to=10>(x) " + body % ("h", "y = Cast<to=1>(u)")
        rounded = model(half, c=np.float16(4000), k=np.float16(0.5))
        options = {"precision": "fp16", "shapes": (), "data": str(tmp_path / "data.npz")}
        report = go(model=exact, simplified=exact, lowered=rounded, **options)
        assert len(report.reasons) == 2
        assert report.reasons[1].startswith("lowered: ")
        assert "Sub " in report.reasons[1]


class TestData:
    def test_random_feeds_are_the_last_resort_and_said_to_be_so(self, go, heard_all):
        report = go(model=conv_net(), lowered=conv_net())
        assert report.synthetic
        assert (report.feeds, report.samples) == (8, 32)
        assert "seeded random" in heard_all.warnings[0]
        assert report.data_digest == go(model=conv_net(), lowered=conv_net()).data_digest

    def test_calibration_data_is_better(self, go, labeled, heard_all):
        report = go(model=conv_net(), lowered=conv_net(), data=labeled(labels=False))
        assert (report.synthetic, report.samples, report.of_samples, report.metrics) == (False, 16, 40, ())
        assert "16 real samples of 40" in verdict_of(Evidence(parity=report)).accuracy.summary
        assert heard_all.warnings == []

    def test_samples_without_a_metric_are_evenly_spread_and_read_once(self, go, labeled, monkeypatch):
        read = []
        whole = RemoteRunner.infer
        monkeypatch.setattr(RemoteRunner, "infer", lambda runner, feed: read.append(runner) or whole(runner, feed))
        report = go(model=conv_net(), lowered=shifted(1), data=labeled(labels=False), accuracy={"samples": 12})
        assert (report.samples, report.feeds) == (12, 3)  # of four samples each
        assert report.chosen == (*range(4), *range(12, 16), *range(24, 28))
        assert report.comparisons[0].outputs[0].worst_feed in (0, 3, 6)
        assert sorted(read.count(runner) for runner in set(read)) == [3, 3]

    def test_what_observe_computed_is_not_computed_again(self, go, labeled, table, make_job, tmp_path, monkeypatch):
        data = labeled(labels=False)
        inputs = table(model=conv_net(), simplified=conv_net(), lowered=conv_net(), data=data)
        job = make_job(precision="int8", recipe={"data": {"source": data}})
        (tmp_path / "observe").mkdir()
        statistics = run_stage(Observe(), job, inputs, tmp_path / "observe", NullProgress())
        ran = set()
        whole = RemoteRunner.infer
        monkeypatch.setattr(RemoteRunner, "infer", lambda runner, feed: ran.add(runner) or whole(runner, feed))
        before = go(given=inputs)
        assert len(ran) == 3
        ran.clear()
        inputs.artifacts["statistics"] = statistics.finish()
        after = go(given=inputs)
        assert len(ran) == 2
        assert after.comparisons[0].runner.endswith("by observe")
        assert after.comparisons[0].outputs[0].max_abs == pytest.approx(0, abs=1e-5)
        assert before.comparisons[1] == after.comparisons[1]

    def test_a_metric_asks_for_all(self, go, labeled):
        report = go(
            model=conv_net(), lowered=conv_net(), evaluation=labeled(), recipe=EVALUATION, accuracy={"samples": 5}
        )
        assert (report.samples, report.of_samples, report.chosen, report.extent) == (40, 40, (), "")

    def test_evaluation_data_is_best(self, go, labeled, tmp_path):
        np.savez(tmp_path / "calib.npz", x=normal(8, 3, 8, 8))
        report = go(
            model=conv_net(), lowered=conv_net(), data=str(tmp_path / "calib.npz"), evaluation=labeled(),
            recipe=EVALUATION,
        )  # fmt: skip
        assert report.samples == 40


class TestMetric:
    def test_its_value_for_every_artifact(self, go, labeled):
        report = go(
            model=conv_net(), simplified=conv_net(), lowered=permuted(), evaluation=labeled(wrong=4),
            recipe=EVALUATION, tolerance={"atol": 1e9, "min_cosine": -1, "min_snr_db": -99},
        )  # fmt: skip
        values = {value.artifact: value.value for value in report.metrics}
        assert values["model"] == values["simplified"] == pytest.approx(0.9)
        assert values["lowered"] < 0.5
        assert report.max_drop == 0.01
        assert not report.passed
        assert report.reasons[0].startswith("lowered: top1 ")

    @pytest.mark.parametrize(("max_drop", "passed"), [(0.5, False), ("100%", True)])
    def test_how_far_it_may_fall_is_the_profiles(self, go, labeled, max_drop, passed):
        report = go(
            model=conv_net(), lowered=permuted(), evaluation=labeled(), recipe=EVALUATION,
            tolerance={"atol": 1e9, "min_cosine": -1, "min_snr_db": -99}, accuracy={"max_drop": max_drop},
        )  # fmt: skip
        assert report.passed is passed

    def test_a_better_metric_is_no_reason(self, go, labeled):
        report = go(
            model=permuted(), lowered=conv_net(), evaluation=labeled(wrong=16), recipe=EVALUATION,
            tolerance={"atol": 1e9, "min_cosine": -1, "min_snr_db": -99}, accuracy={"max_drop": 0},
        )  # fmt: skip
        assert [value.value for value in report.metrics] == pytest.approx([0.4, 0.6])  # permuted is right on the wrong
        assert report.passed

    def test_a_reference_that_only_guesses_is_one(self, go, labeled):
        report = go(
            model=permuted(), lowered=permuted(), evaluation=labeled(), recipe=EVALUATION, accuracy={"max_drop": 0}
        )
        assert not report.passed
        assert [reason.partition(" ")[0] for reason in report.reasons] == ["model:"]

    def test_a_metric_that_was_asked_for_needs_labels(self, go, labeled):
        things = {"model": conv_net(), "lowered": conv_net(), "evaluation": labeled(labels=False), "labels": ""}
        with pytest.raises(InputError, match="no labels, so top5 cannot be measured"):
            go(recipe={"evaluation": {"source": "given", "metric": "top5"}}, **things)
        assert go(recipe={"evaluation": {"source": "given"}}, **things).metrics == ()

    def test_an_output_that_is_not_there(self, go, labeled):
        recipe = {"evaluation": {"source": "given", "labels": "labels", "output": "scores"}}
        with pytest.raises(InputError, match="no output is called 'scores'"):
            go(model=conv_net(), lowered=conv_net(), evaluation=labeled(), recipe=recipe)


class TestEngines:
    @pytest.fixture
    def engines(self, tmp_path, table):
        """Two null engines on the table, of which one runs here."""
        inputs = table(model=conv_net(), lowered=conv_net())
        artifacts = dict(inputs.artifacts)
        for name in ("sm89", "sm120"):
            (tmp_path / f"{name}.plan").write_text(name)
            entry = FileEntry.of(tmp_path / f"{name}.plan")
            artifacts[f"engine:{name}"] = Artifact("engine", tmp_path, (entry,), target=name)
        return type(inputs)(artifacts)

    def test_those_that_cannot_run_are_listed_with_the_reason(self, go, engines):
        report = go(given=engines, targets=["sm89", "sm120"])
        assert set(report.not_run) == {"engine:sm89", "engine:sm120"}
        assert all("null engines are placeholders, for tests only" in reason for reason in report.not_run.values())
        assert [comparison.artifact for comparison in report.comparisons] == ["lowered"]

    def test_those_that_run_are_compared_too(self, go, engines, monkeypatch, make_job):
        from contextlib import nullcontext

        from trtpipe.backends.onnxruntime import OnnxRuntime

        graph = engines.path("lowered")
        with OnnxRuntime().open(graph, make_job().settings) as runner:
            monkeypatch.setattr(
                Null, "runs", lambda self, target: None if target.name == "sm89" else Refusal("no", "n")
            )
            monkeypatch.setattr(Null, "open", lambda self, path, settings: nullcontext(runner))
            report = go(given=engines, targets=["sm89", "sm120"])
        assert [comparison.artifact for comparison in report.comparisons] == ["lowered", "engine:sm89"]
        assert report.not_run == {"engine:sm120": "no"}

    def test_where_engines_are_compiled_from_the_program_the_graphs_agreement_is_not_theirs(
        self, go, engines, monkeypatch, heard_all
    ):
        monkeypatch.setattr(Null, "consumes", "program")
        report = go(given=engines, targets=["sm89", "sm120"])
        assert report.passed, "of the graphs"
        assert "only they show its accuracy" in report.not_run["program"]
        assert any("program: the engines are compiled from it" in warning for warning in heard_all.warnings)

    def test_an_engine_of_the_program_was_not_made_from_the_lowered_graph(self, go, engines, monkeypatch, make_job):
        from contextlib import nullcontext

        from trtpipe.backends.onnxruntime import OnnxRuntime

        monkeypatch.setattr(Null, "consumes", "program")
        monkeypatch.setattr(Null, "runs", lambda self, target: None)
        with OnnxRuntime().open(engines.path("lowered"), make_job().settings) as runner:
            monkeypatch.setattr(Null, "open", lambda self, path, settings: nullcontext(runner))
            report = go(given=engines, targets=["sm89", "sm120"])
        assert report.links == ()
        assert report.not_run == {}


def test_inputs_of_any_kind(go):
    report = go(
        model=embedding(), lowered=embedding(),
        shapes={name: {"min": [1, 2], "opt": [2, 6], "max": [4, 9]} for name in ("ids", "mask")},
    )  # fmt: skip
    assert report.passed


def test_what_its_key_holds(make_job, monkeypatch):
    def key(**options):
        return STAGE.settings(make_job(**options))

    def recipe(**evaluation):
        return {"recipe": {"evaluation": {"source": "a.npz"} | evaluation}}

    base = key(**recipe())
    assert base == key(**recipe(source="elsewhere.npz")) == key(keep=["a"], **recipe())
    assert base == key(latency={"duration": 9.0}, **recipe()) == key(build={"opt_level": 1}, **recipe())
    changes = [
        key(),
        key(precision="int8", **recipe()),
        key(tolerance={"atol": 0.5}, **recipe()),
        key(accuracy={"max_drop": 0.5}, **recipe()),
        key(targets=["sm120"], **recipe()),
        key(**recipe(metric="top5")),
        key(**recipe(output="y")),
    ]
    assert base not in changes
    assert base == key(**recipe(samples=3)), "data counts by its content"
    assert base == key(shapes=SHAPES, **recipe()), "only random samples follow the shapes"
    assert key() != key(shapes=SHAPES)
    assert "engine" not in consumed(STAGE, make_job())
    monkeypatch.setattr(Null, "runs", lambda self, target: None)
    assert "engine" in consumed(STAGE, make_job())
