from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fixtures_stages import consumed, fingerprint_of, run_stage
from models import conv_net, embedding, model

from trtpipe.artifact import Artifact, Draft, FileEntry, IOContract
from trtpipe.backends.gpu import Gpu
from trtpipe.backends.null import Null
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.toolchain import machine
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.errors import StageError
from trtpipe.isolation.remote_runner import RemoteRunner
from trtpipe.latency.reports import LatencyReport
from trtpipe.pipeline.run_state import artifact_from_file
from trtpipe.report.verdict import Evidence, verdict_of
from trtpipe.stages.measure import Measure

STAGE = Measure()
SHORT = {"warmup": 0.001, "duration": 0.01, "cpu": True}
SHAPES = {"x": {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [8, 3, 8, 8]}}


@pytest.fixture
def go(make_job, table, workdir, heard_all):
    def measure(proto=None, given=None, **options):
        job = make_job(**({"latency": SHORT, "shapes": SHAPES} | options))
        inputs = given or table(lowered=proto)
        draft = run_stage(STAGE, job, inputs, workdir, heard_all)
        STAGE.check(draft, inputs)
        assert sorted(path.name for path in workdir.iterdir()) == ["latency.json"]
        return LatencyReport.read(draft.path)

    return measure


def test_without_a_gpu_the_lowered_graph_is_timed_and_said_to_be_no_gpu_latency(go):
    report = go(conv_net())
    [figure] = report.measurements
    assert (figure.artifact, figure.on_gpu) == ("lowered", False)
    assert "onnxruntime" in figure.runner
    assert figure.shapes == {"x": (4, 3, 8, 8)}
    assert figure.iterations >= 10
    assert 0 < figure.min <= figure.median <= figure.p99 <= figure.max
    assert "not a GPU latency" in report.notes[0]
    assert report.machine == machine()


def test_bfloat16_is_timed_emulated_because_no_cpu_computes_it(go):
    proto = model("(float[N,2] x) => (float[N,2] y) { h = Cast<to=16>(x) m = Mul(h, h) y = Cast<to=1>(m) }", opset=22)
    assert go(proto, precision="bf16", shapes=()).measurements[0].artifact == "lowered"


def test_integer_inputs(go):
    shapes = {name: {"min": [1, 2], "opt": [2, 6], "max": [4, 9]} for name in ("ids", "mask")}
    assert go(embedding(), shapes=shapes).measurements[0].shapes == {"ids": (2, 6), "mask": (2, 6)}


class TestShapesAndData:
    def test_every_optimization_profile_is_measured_at_every_batch_size(self, go):
        report = go(conv_net(), shapes=[SHAPES, {"x": {key: [2, 3, 8, 8] for key in ("min", "opt", "max")}}])
        assert [figure.shapes["x"][0] for figure in report.measurements] == [4, 2]
        report = go(conv_net(), latency={**SHORT, "batches": [1, 6]})
        assert [figure.shapes["x"] for figure in report.measurements] == [(1, 3, 8, 8), (6, 3, 8, 8)]

    def test_without_data_the_report_says_that_values_are_synthetic(self, go):
        assert go(conv_net()).measurements[0].data.startswith("synthetic: ")

    @pytest.mark.parametrize("role", ["data", "evaluation"])
    def test_real_samples_fill_the_inputs(self, go, table, tmp_path, monkeypatch, role):
        values = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)
        np.savez(tmp_path / "some.npz", x=values)
        fed = []
        original = RemoteRunner.time
        monkeypatch.setattr(RemoteRunner, "time", lambda self, feed: fed.append(feed) or original(self, feed))
        report = go(given=table(lowered=conv_net(), labels="", **{role: str(tmp_path / "some.npz")}))
        assert "some.npz" in report.measurements[0].data
        np.testing.assert_array_equal(fed[0]["x"], values[:4])


class TestEngines:
    @pytest.fixture
    def engines(self, tmp_path, table, monkeypatch):
        """Two engines that take 5 ms and 9 ms, on a machine that runs them."""
        inputs = table(lowered=conv_net())
        artifacts = dict(inputs.artifacts)
        for name in ("sm89", "sm120"):
            (tmp_path / f"{name}.plan").write_text(name)
            artifacts[f"engine:{name}"] = Artifact("engine", tmp_path, (FileEntry.of(tmp_path / f"{name}.plan"),), name)
        from contextlib import nullcontext
        from types import SimpleNamespace

        from trtpipe.latency import measuring

        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: clock.now))

        def opened(self, path, settings):
            seconds = {"sm89": 0.005, "sm120": 0.009}[path.stem]

            def time(feed):
                clock.now += seconds
                return seconds

            runner = SimpleNamespace(time=time, gpu=None, device=f"a clock on {path.stem}", inputs=(), outputs=())
            return nullcontext(runner)

        monkeypatch.setattr(Null, "runs", lambda self, target: None)
        monkeypatch.setattr(Null, "open", opened)
        return type(inputs)(artifacts)

    def test_each_is_timed_and_the_slowest_decides(self, go, engines):
        report = go(given=engines, targets=["sm89", "sm120"])
        assert [(figure.artifact, figure.on_gpu) for figure in report.measurements] == [
            ("engine:sm120", True),
            ("engine:sm89", True),
        ]  # by label, in whatever order they were asked for
        assert [figure.p99 for figure in report.measurements] == pytest.approx([9, 5])
        assert report.notes == ()
        for limit, outcome in ((0.010, "passed"), (0.008, "failed"), (None, "not judged")):
            assert verdict_of(Evidence(latency=report, latency_limit=limit)).latency.outcome == outcome

    def test_what_the_builder_says_is_kept_for_comparison(self, go, engines, tmp_path):
        layer = EngineLayer(name="l", kind="conv", outputs=(EngineTensor(name="y", type="Half", dims=(2, 8)),))
        record = EngineRecord(
            flavor="null",
            version="1",
            target="sm89",
            io=IOContract(inputs=(), outputs=()),
            report=EngineReport(source="a test", layers=(layer,)),
            build_seconds=1.0,
        )
        record.write(tmp_path / "sm89.plan.json")
        label = "engine:sm89"
        artifact = artifact_from_file("engine", tmp_path / "sm89.plan", "sm89")
        report = go(given=type(engines)({**engines.artifacts, label: artifact}), targets=["sm89", "sm120"])
        assert list(report.engines) == [label]  # nothing is known of the other
        assert (report.engines[label].kernels, report.engines[label].bytes_written) == (1, 32)

    def test_engines_of_other_targets_are_left_out(self, go, engines):
        assert [figure.artifact for figure in go(given=engines).measurements] == ["engine:sm89"]


@pytest.mark.parametrize("times", [(0.0, 1.0, 2.0), (3.0, 2.0, 4.0), (1.0, 5.0, 4.0)])
def test_impossible_times_are_caught(go, tmp_path, table, times):
    report = go(conv_net())
    figure = report.measurements[0].model_copy(update=dict(zip(("min", "median", "max"), times, strict=True)))
    report.model_copy(update={"measurements": (figure,)}).write(tmp_path / "latency.json")
    with pytest.raises(StageError, match="lowered: impossible run times"):
        STAGE.check(Draft("latency", tmp_path, ("latency.json",)), table(lowered=conv_net()))


def test_what_its_key_holds(make_job, monkeypatch):
    def key(**options):
        return STAGE.settings(make_job(**{"latency": SHORT} | options))

    assert key() == key(keep=["a"]) == key(tolerance={"atol": 1.0}) == key(latency=SHORT | {"max_p99": 1.0})
    assert key() not in [
        key(latency=SHORT | {"duration": 0.02}),
        key(shapes=SHAPES),
        key(targets=["sm120"]),
        key(precision="bf16"),
    ]
    fingerprint = fingerprint_of(STAGE, make_job(latency=SHORT))
    assert fingerprint["cpu"] == str(machine()["cpu"])
    assert fingerprint["threads"] == "0"
    assert consumed(STAGE, make_job(latency=SHORT)) == ("engine", "lowered", "samples")
    monkeypatch.setattr("trtpipe.stages.measure.gpus", lambda: (Gpu("u", "NVIDIA L4", (8, 9), "570.1", None),))
    assert fingerprint_of(STAGE, make_job(latency=SHORT))["gpus"] == "NVIDIA L4 570.1"


class TestWhetherItIsNeeded:
    def test_engines_that_cannot_run_here_are_not_timed_on_the_cpu(self, make_job):
        settings = STAGE.settings(make_job(targets=["sm89"]))
        assert isinstance(settings, NotNeeded)
        assert "not measured here" in settings.reason

    def test_where_it_is_asked_for(self, make_job):
        assert not isinstance(STAGE.settings(make_job(targets=["sm89"], latency=SHORT)), NotNeeded)

    def test_a_graph_alone_is_timed_where_it_can_be(self, make_job):
        job = replace(make_job(), targets=())
        assert not isinstance(STAGE.settings(job), NotNeeded)

    def test_an_engine_that_can_run_here_is_timed(self, make_job, monkeypatch):
        monkeypatch.setattr(Null, "runs", lambda self, target: None)
        assert not isinstance(STAGE.settings(make_job(targets=["sm89"])), NotNeeded)
