from __future__ import annotations

import pytest

from trtpipe.accuracy.reports import MetricValue, ParityReport
from trtpipe.artifact import FileEntry
from trtpipe.errors import InputError
from trtpipe.latency.reports import Latency, LatencyReport
from trtpipe.report.manifest import Manifest, ManifestEntry, Verdict, accuracy_verdict, latency_verdict, verdicts


def manifest(*passed: bool | None) -> Manifest:
    files = (FileEntry(name="lowered.onnx", sha256="0" * 64, size=3),)
    return Manifest(
        trtpipe="0.1.0",
        source="model.onnx",
        precision="int8",
        backend="null",
        targets=("sm89",),
        settings={"simplify": True, "profile": {"keep": ["a*"]}},
        toolchain={"onnx": "1.18.0"},
        calibration=None,
        artifacts=(ManifestEntry(label="lowered", digest="1" * 64, key="2" * 64, files=files),),
        verdicts=tuple(Verdict(gate="accuracy", passed=value, summary="s") for value in passed),
    )


@pytest.mark.parametrize(
    ("gates", "passed"), [((), True), ((True,), True), ((None,), True), ((True, False), False), ((None, True), True)]
)
def test_it_may_ship_unless_a_gate_failed(gates, passed):
    assert manifest(*gates).passed is passed


def test_it_survives_its_file_and_equal_ones_have_equal_bytes(tmp_path):
    for name in ("a.json", "b.json"):
        manifest(True).write(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert Manifest.read(tmp_path / "a.json") == manifest(True)


def test_a_stranger_is_told_apart(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web app", "icons": []}')
    with pytest.raises(InputError, match="Manifest record"):
        Manifest.read(tmp_path / "manifest.json")


def parity(**changes: object) -> ParityReport:
    plain = ParityReport(
        precision="int8",
        reference="model",
        data="digits",
        data_digest="0" * 64,
        synthetic=False,
        feeds=2,
        samples=449,
        comparisons=(),
        passed=True,
    )
    return plain.model_copy(update=changes)


def latency(*, on_gpu: bool, max_p99: float | None, passed: bool) -> LatencyReport:
    figure = Latency(
        artifact="engine:sm89" if on_gpu else "lowered",
        runner="TensorRT 11 on NVIDIA L4" if on_gpu else "onnxruntime 1.32.0 on CPU",
        on_gpu=on_gpu,
        shapes={},
        warmup_seconds=0.2,
        iterations=100,
        min=1,
        max=9,
        mean=2.5,
        median=2.25,
        p90=3,
        p95=4,
        p99=5.125,
        cov=1,
        throughput_qps=400,
    )
    return LatencyReport(machine={}, measurements=(figure,), max_p99=max_p99, passed=passed)


class TestAccuracy:
    def test_figures_of_the_metric(self) -> None:
        values = tuple(
            MetricValue(artifact=name, runner="x", metric="top1", value=value, samples=449)
            for name, value in (("model", 0.98441), ("lowered", 0.97996))
        )
        verdict = accuracy_verdict(parity(metrics=values))
        assert verdict.passed is True
        assert verdict.summary == "top1 on 449 samples: model 0.9844, lowered 0.9800"

    def test_reasons_of_a_failure(self) -> None:
        verdict = accuracy_verdict(parity(passed=False, reasons=("a is off", "b is off")))
        assert (verdict.passed, verdict.summary) == (False, "a is off; b is off")

    @pytest.mark.parametrize(("synthetic", "word"), [(True, "synthetic"), (False, "real")])
    def test_without_a_metric_the_kind_of_data_is_said(self, synthetic: bool, word: str) -> None:
        assert (
            accuracy_verdict(parity(synthetic=synthetic)).summary == f"outputs within tolerance on 449 {word} samples"
        )


class TestLatency:
    @pytest.mark.parametrize("passed", [True, False])
    def test_gpu_with_a_budget_is_judged(self, passed: bool) -> None:
        verdict = latency_verdict(latency(on_gpu=True, max_p99=5.0, passed=passed))
        assert verdict.passed is passed
        assert verdict.summary == ("engine:sm89 median 2.25 ms, p99 5.12 ms (TensorRT 11 on NVIDIA L4); p99 limit 5 ms")

    def test_without_a_budget_there_is_nothing_to_judge(self) -> None:
        assert latency_verdict(latency(on_gpu=True, max_p99=None, passed=True)).passed is None

    def test_cpu_is_never_judged_and_labeled(self) -> None:
        verdict = latency_verdict(latency(on_gpu=False, max_p99=1.0, passed=True))
        assert verdict.passed is None
        assert verdict.summary.endswith("(onnxruntime 1.32.0 on CPU, not a GPU latency)")


def test_only_reports_that_exist_have_a_verdict() -> None:
    report = latency(on_gpu=False, max_p99=None, passed=True)
    assert verdicts(None, None) == ()
    assert [verdict.gate for verdict in verdicts(parity(), report)] == ["accuracy", "latency"]
    assert [verdict.gate for verdict in verdicts(None, report)] == ["latency"]
