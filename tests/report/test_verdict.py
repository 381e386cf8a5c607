"""What is said of a run: scope, gates, exit code, precision, in one record."""

from __future__ import annotations

import pytest

from trtpipe.accuracy.reports import Comparison, MetricValue, OutputParity, ParityReport
from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.formats import Precision
from trtpipe.config.profile import OutputTolerance
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.latency.reports import Latency, LatencyReport
from trtpipe.passes.decisions import FLOAT32_ALONE, KEPT, NodeDecision, work_share
from trtpipe.report.precision import dearer, precision_found
from trtpipe.report.stage_records import LowerRecord
from trtpipe.report.verdict import Evidence, Failure, Verdict, verdict_of

CPU, L4 = "onnxruntime 1.32.0 on CPU", "tensorrt 11.4.0 on NVIDIA L4"
NO_GPU = "this machine has no GPU"


def parity(*ran: tuple[str, str], **changes: object) -> ParityReport:
    return ParityReport(
        precision="int8",
        reference="model",
        data="digits",
        data_digest="0" * 64,
        synthetic=False,
        feeds=2,
        samples=449,
        comparisons=tuple(
            Comparison(artifact=artifact, against="model", runner=runner, outputs=())
            for artifact, runner in ran or (("simplified", CPU), ("lowered", CPU))
        ),
        passed=True,
    ).model_copy(update=changes)


def latency(*, on_gpu: bool) -> LatencyReport:
    figure = Latency(
        artifact="engine:sm89" if on_gpu else "lowered",
        runner="TensorRT 11 on NVIDIA L4" if on_gpu else CPU,
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
    return LatencyReport(machine={}, measurements=(figure,))


class TestScope:
    def test_a_graph_on_the_cpu_is_no_engine(self) -> None:
        verdict = verdict_of(Evidence(parity(not_run={"engine:sm89": NO_GPU})))
        assert verdict.headline == ("PASSED on the lowered graph (onnxruntime, CPU, 449 samples); engine not executed")
        (executed,) = verdict.executed
        assert (executed.artifact, executed.runtime, executed.device) == ("lowered", "onnxruntime", "CPU")
        assert verdict.not_executed == {"engine:sm89": NO_GPU}
        assert (verdict.samples, verdict.data, verdict.passed, verdict.exit_code) == (449, "real", True, 0)

    def test_several_engines_are_counted(self) -> None:
        verdict = verdict_of(Evidence(parity(not_run={"engine:sm89": NO_GPU, "engine:sm120": NO_GPU})))
        assert verdict.scope.endswith("; engines not executed")

    def test_an_engine_that_ran_says_on_which_gpu(self) -> None:
        report = parity(("lowered", CPU), ("engine:sm89", L4), not_run={"engine:sm120": "no such GPU"})
        verdict = verdict_of(Evidence(report))
        assert verdict.scope == (
            "on the engine for sm89 (tensorrt, NVIDIA L4, 449 samples); not executed: engine for sm120"
        )
        assert [each.device for each in verdict.executed] == ["NVIDIA L4"]

    def test_what_is_emulated_is_no_part_of_the_device(self) -> None:
        verdict = verdict_of(Evidence(parity(("lowered", f"{CPU}, float16 storage emulated"), samples=1)))
        assert verdict.scope == "on the lowered graph (onnxruntime, CPU, 1 sample)"

    def test_without_a_comparison_nothing_passed(self) -> None:
        verdict = verdict_of(Evidence())
        assert (verdict.outcome, verdict.passed, verdict.exit_code, verdict.scope) == ("not judged", None, 0, "")


class TestAccuracy:
    def test_figures_of_the_metric(self) -> None:
        values = tuple(
            MetricValue(artifact=name, runner="x", metric="top1", value=value, samples=449)
            for name, value in (("model", 0.98441), ("lowered", 0.97996))
        )
        gate = verdict_of(Evidence(parity(metrics=values))).accuracy
        assert (gate.outcome, gate.summary) == ("passed", "top1 on 449 samples: model 0.9844, lowered 0.9800")

    def test_reasons_of_a_failure(self) -> None:
        verdict = verdict_of(Evidence(parity(passed=False, reasons=("a is off", "b is off"), failing_stage="lower")))
        assert verdict.accuracy.summary == "a is off; b is off; first failing stage: lower"
        assert (verdict.passed, verdict.exit_code) == (False, 3)
        assert verdict.headline.startswith("FAILED on the lowered graph")

    def test_one_sample_can_fail_but_passes_by_a_metric_alone(self) -> None:
        verdict = verdict_of(Evidence(parity(samples=1)))
        assert (verdict.outcome, verdict.exit_code, verdict.data) == ("not judged", 0, "real")
        assert verdict.headline.startswith("NOT JUDGED on one sample: ran the lowered graph")
        assert verdict_of(Evidence(parity(samples=1, passed=False, reasons=("off",)))).exit_code == 3
        metric = MetricValue(artifact="model", runner="x", metric="top1", value=1.0, samples=1)
        assert verdict_of(Evidence(parity(samples=1, metrics=(metric,)))).outcome == "passed"
        assert verdict_of(Evidence(parity(samples=2))).outcome == "passed"

    def test_random_samples_can_fail_but_never_pass(self) -> None:
        verdict = verdict_of(Evidence(parity(synthetic=True)))
        assert (verdict.outcome, verdict.exit_code, verdict.data) == ("not judged", 0, "random")
        assert "within tolerance" not in verdict.accuracy.summary + verdict.headline
        assert "not judged on real data" in verdict.accuracy.summary
        failed = verdict_of(Evidence(parity(synthetic=True, passed=False, reasons=("off by 1e9",))))
        assert (failed.outcome, failed.exit_code) == ("failed", 3)


class TestLatency:
    @pytest.mark.parametrize(("limit", "outcome", "code"), [(0.006, "passed", 0), (0.005, "failed", 4)])
    def test_gpu_with_a_limit_is_judged(self, limit: float, outcome: str, code: int) -> None:
        verdict = verdict_of(Evidence(parity(), latency(on_gpu=True), latency_limit=limit))
        assert (verdict.latency.outcome, verdict.exit_code) == (outcome, code)
        assert verdict.latency.summary == (
            f"engine:sm89 median 2.25 ms, p99 5.12 ms (TensorRT 11 on NVIDIA L4); p99 limit {limit * 1e3:g} ms"
        )

    def test_without_a_limit_there_is_nothing_to_judge(self) -> None:
        assert verdict_of(Evidence(parity(), latency(on_gpu=True))).latency.outcome == "not judged"

    def test_cpu_is_never_judged_and_labeled(self) -> None:
        verdict = verdict_of(Evidence(parity(), latency(on_gpu=False), latency_limit=0.001))
        assert (verdict.latency.outcome, verdict.exit_code, verdict.outcome) == ("not judged", 0, "passed")
        assert verdict.latency.summary.endswith("(onnxruntime 1.32.0 on CPU, not a GPU latency)")
        assert "latency gate not evaluated" in verdict.headline

    def test_nothing_measured(self) -> None:
        assert verdict_of(Evidence(parity())).latency.summary == "not measured here"


class TestFailures:
    @pytest.mark.parametrize(
        ("step", "error", "limit", "code"),
        [
            ("compile sm120", 5, None, 5),
            ("verify", 5, None, 0),  # the tools cannot run it: nothing is known of its accuracy
            ("verify", 2, None, 2),
            ("measure", 2, None, 0),
            ("measure", 5, 0.001, 5),
            ("reference", 5, None, 0),
        ],
    )
    def test_exit_codes(self, step: str, error: int, limit: float | None, code: int) -> None:
        failure = Failure(step=step, reason="no kernel for it", exit_code=error)
        report = None if step == "verify" else parity()
        verdict = verdict_of(Evidence(report, failures=(failure,), latency_limit=limit))
        assert verdict.exit_code == code
        assert f"{step}: no kernel for it" in verdict.remarks
        if step == "verify" and not code:
            assert (verdict.outcome, verdict.accuracy.summary) == ("not judged", "no kernel for it")


def layer(kind: str, type_: str, size: int = 1000, node: str = "n", weight: int = 0) -> EngineLayer:
    def tensor(name: str, elements: int) -> EngineTensor:
        return EngineTensor(name=name, type=type_, dims=(1, elements))

    constants = (tensor("w", weight),) if weight else ()
    return EngineLayer(
        name=kind,
        kind=kind,
        inputs=(tensor("a", size),),
        constants=constants,
        outputs=(tensor("b", size),),
        nodes=(node,),
    )


def engine(*layers: EngineLayer, separate: tuple[str, ...] = (), flavor: str = "tensorrt") -> EngineRecord:
    return EngineRecord(
        flavor=flavor,
        version="1",
        target="sm89",
        io=IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=(1,)),), outputs=()),
        report=EngineReport(source="log", layers=layers, separate=separate),
        build_seconds=1.0,
    )


def lowering(precision: str, *nodes: tuple[str, str, int | None]) -> LowerRecord:
    decisions = tuple(
        NodeDecision(node=f"n{index}", op=op, precision=form, reason="r", macs=macs)
        for index, (op, form, macs) in enumerate(nodes)
    )
    counts: dict[str, int] = {}
    for each in decisions:
        counts[each.precision] = counts.get(each.precision, 0) + 1
    work = work_share(decisions) if Precision(precision).quantized else None
    return LowerRecord(precision=precision, opset=20, counts=counts, nodes=decisions, work=work)


def judged(lowered: LowerRecord, record: EngineRecord) -> Verdict:
    return verdict_of(Evidence(parity(), lowered=lowered, engines={"engine:sm89": record}))


def test_outputs_without_a_limit_are_named() -> None:
    def output(name: str, share: float, limit: float | None = None) -> OutputParity:
        return OutputParity(
            output=name, max_abs=1, max_rel=1, mean_abs=1 - share, mean_rel=0, median_abs=0, scale=1, cosine=None,
            agreement=share, snr_db=0, worst_feed=0, tolerance=OutputTolerance(min_agreement=limit), passed=True,
        )  # fmt: skip

    outputs = (output("cls", 0.9), output("equal", 1.0), output("held", 0.9, 0.5))
    compared = Comparison(artifact="lowered", against="model", runner=CPU, outputs=outputs)
    report = parity(comparisons=(compared,))
    assert report.unjudged == ("cls",)
    verdict = verdict_of(Evidence(report))
    for said in (verdict.headline, verdict.accuracy.summary):
        assert said.endswith("; 'cls' not judged")
    metric = MetricValue(artifact="model", runner=CPU, metric="top1", value=1, samples=4)
    assert report.model_copy(update={"metrics": (metric,)}).unjudged == ()


class TestPrecision:
    @pytest.mark.parametrize(
        ("lowered", "record", "code"),
        [
            (lowering("int8", ("Conv", "int8", 10)), engine(layer("conv", "Int8")), 0),
            (lowering("int8", ("Conv", "float32", 10)), engine(layer("conv", "Float")), 5),
            (lowering("int8", ("Conv", "float16", 10)), engine(layer("conv", "Half")), 5),
            (lowering("int8", ("Add", "int8", None), ("LSTM", "float32", 9)), engine(layer("kgen", "Int8")), 5),
            (lowering("int8", ("Conv", "float32", 10)), engine(layer("conv", "Int8")), 0),  # the model's own Q/DQ
            (lowering("fp16", ("Conv", "float32", None)), engine(layer("conv", "Float")), 5),
            (lowering("fp16", ("Relu", "float16", None)), engine(layer("kgen", "Half")), 0),
            (lowering("best", ("Conv", "float16", 10)), engine(layer("conv", "Half")), 0),
            (lowering("best", ("Conv", "float32", 10)), engine(layer("conv", "Float")), 5),
            (lowering("fp32"), engine(layer("conv", "Float")), 0),
        ],
    )
    def test_nothing_in_the_precision_asked_for_fails(
        self, lowered: LowerRecord, record: EngineRecord, code: int
    ) -> None:
        verdict = judged(lowered, record)
        assert verdict.exit_code == code
        assert verdict.precision is not None
        assert verdict.precision.given == (code == 0)
        assert ("nothing computes in" in verdict.headline) == (code == 5)
        assert not code or [remark.partition(" (")[0] for remark in verdict.remarks] == [
            f"nothing was lowered to {lowered.precision}"
        ]

    def test_nodes_that_the_builder_keeps_are_named_and_all_of_them_are_a_failure(self) -> None:
        lowered = lowering("fp8", ("Conv", "fp8", 10), ("Gemm", "fp8", 10))
        first, second = (node.node for node in lowered.nodes)
        some = judged(lowered, engine(layer("conv", "Half", node=first), layer("gemm", "FP8", node=second)))
        assert some.exit_code == 0
        assert f"engine for sm89: the builder keeps 1 of 2 fp8 nodes in higher precision: {first}" in some.remarks
        none = judged(lowered, engine(layer("conv", "Half", node=first), layer("gemm", "Half", node=second)))
        assert none.exit_code == 5
        assert none.remarks == (
            f"the builder keeps 2 of 2 fp8 nodes in higher precision: {', '.join(sorted((first, second)))}",
        )

    @pytest.mark.parametrize(("precision", "code"), [("fp16", 0), ("bf16", 0), ("int8", 5), ("best", 5)])
    def test_without_conv_and_gemm_there_is_nothing_for_16_bits_to_do(self, precision: str, code: int) -> None:
        verdict = judged(lowering(precision, ("Softmax", "float32", 0)), engine(layer("kgen", "Float")))
        assert verdict.exit_code == code
        assert f"nothing was lowered to {precision}" in verdict.remarks[0]

    @pytest.mark.parametrize(("precision", "code"), [("fp16", 0), ("bf16", 0), ("best", 0), ("int8", 5)])
    @pytest.mark.parametrize("other", [True, False])
    def test_layers_that_tensorrt_takes_in_float32_only_have_no_other_precision(
        self, precision: str, code: int, other: bool
    ) -> None:
        record = lowering(precision, ("LSTM", "float32", 10), *([("Conv", "float32", 10)] if other else []))
        nodes = tuple(
            each.model_copy(update={"reason": f"{FLOAT32_ALONE}: with sequence lengths"}) if each.op == "LSTM" else each
            for each in record.nodes
        )
        verdict = judged(record.model_copy(update={"nodes": nodes}), engine(layer("gemm", "Float")))
        assert verdict.exit_code == (5 if other else code)

    @pytest.mark.parametrize("precision", ["fp16", "bf16", "best", "int8"])
    @pytest.mark.parametrize("fused", ["kgen", "gemm"])
    def test_patterns_that_keep_every_gemm_leave_nothing(self, precision: str, fused: str) -> None:
        """However the builder computes them, and whatever else is in 16 bits."""
        record = lowering(precision, ("Gemm", "float32", 10), ("Relu", "float16", None))
        kept = record.nodes[0].model_copy(update={"reason": f"{KEPT} 'fc*'"})
        lowered = record.model_copy(update={"nodes": (kept, *record.nodes[1:])})
        verdict = judged(lowered, engine(layer(fused, "Float"), layer("kgen", "Half")))
        assert (verdict.exit_code, verdict.passed) == (5, False)
        assert kept.node in verdict.remarks[0]

    def test_a_lowering_alone_is_not_judged(self) -> None:
        verdict = verdict_of(Evidence(lowered=lowering("int8", ("Conv", "float32", 10))))
        assert (verdict.exit_code, verdict.outcome) == (0, "not judged")

    def test_a_half_model_in_fp32_is_said_to_be_one(self) -> None:
        (remark,) = judged(lowering("fp32"), engine(layer("conv", "Half"))).remarks
        assert "the model itself computes in Half" in remark
        assert judged(lowering("fp32"), engine(layer("conv", "Half"), layer("conv", "Float"))).remarks == ()

    def test_layers_are_counted_by_the_engine(self) -> None:
        found = precision_found(lowering("int8"), {"e": engine(layer("conv", "Int8"), layer("gemm", "Float"))})
        assert found is not None
        assert found.layers == {"e": {"Float": 1, "Int8": 1}}


class TestCost:
    """Each kernel costs 1 MB and the bytes it moves: here 2 MB a million elements of float32 more than of float16."""

    BIG = 10_000_000

    def test_float32_between_int8_layers_costs_more_than_fp16(self) -> None:
        from trtpipe.config.formats import INT8

        record = engine(layer("conv", "Int8", self.BIG), layer("kgen", "Float", self.BIG))
        words = dearer(record, INT8)
        assert "0 of 1 Conv/GEMM layers are in fp32" in words
        assert "its 2 kernels move 100 MB, in fp16 2 would move 80.0 MB" in words  # 2 x 10 + 2 x 40 MB, and 4 x 20
        (remark,) = judged(lowering("int8", ("Conv", "int8", 10)), record).remarks
        assert "--best" in remark

    def test_int8_that_saves_says_nothing(self) -> None:
        from trtpipe.config.formats import INT8

        assert not dearer(engine(layer("conv", "Int8", self.BIG), layer("kgen", "Float", 10)), INT8)

    def test_kernels_that_only_quantize_are_extra(self) -> None:
        from trtpipe.config.formats import INT8

        record = engine(layer("conv", "Int8", 100_000), layer("kgen", "Int8", 10, node="q"), separate=("q",))
        assert "its 2 kernels move" in dearer(record, INT8)
        assert "in fp16 1 would move" in dearer(record, INT8)

    def test_best_is_never_told_to_be_best(self) -> None:
        record = engine(layer("conv", "Int8", self.BIG), layer("kgen", "Float", self.BIG))
        assert judged(lowering("best", ("Conv", "int8", 10)), record).remarks == ()


def test_plans_of_rtx_say_which_runtime_they_are_for() -> None:
    verdict = judged(lowering("fp16", ("Conv", "float16", 1)), engine(layer("conv", "Half"), flavor="tensorrt-rtx"))
    assert all(word in verdict.runtime for word in ("TensorRT-RTX runtime", "not for TensorRT, Triton or trtexec"))
    assert verdict.runtime in verdict.remarks
    assert judged(lowering("fp16", ("Conv", "float16", 1)), engine(layer("conv", "Half"))).runtime == ""
