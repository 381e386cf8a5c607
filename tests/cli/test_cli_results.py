"""Exit codes and final lines of results that need a GPU to come about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trtpipe import Artifact, BuildResult, LatencyReport, ParityReport, Step
from trtpipe.accuracy.reports import Comparison
from trtpipe.artifact import FileEntry
from trtpipe.cli.results import finish
from trtpipe.cli.session import Session
from trtpipe.errors import BuildError
from trtpipe.latency.reports import Latency
from trtpipe.pipeline.executor import failures_of
from trtpipe.report.verdict import Evidence, verdict_of


def parity(*, passed: bool) -> ParityReport:
    return ParityReport(
        precision="int8",
        reference="model",
        data="digits",
        data_digest="0" * 64,
        synthetic=False,
        feeds=1,
        samples=10,
        comparisons=(
            Comparison(artifact="lowered", against="model", runner="onnxruntime 1.32.0 on CPU", outputs=()),
            Comparison(artifact="engine:sm89", against="model", runner="tensorrt 11.4.0 on NVIDIA L4", outputs=()),
        ),
        reasons=() if passed else ("lowered: off by 3", "engine:sm89: off by 4"),
        passed=passed,
    )


def latency() -> LatencyReport:
    figure = Latency(
        artifact="engine:sm89",
        runner="TensorRT on an RTX 4090",
        on_gpu=True,
        shapes={"x": (1, 3)},
        warmup_seconds=0.2,
        iterations=1000,
        min=1.0,
        max=9.0,
        mean=2.0,
        median=2.0,
        p90=3.0,
        p95=4.0,
        p99=5.0,
        cov=1.0,
        throughput_qps=500.0,
    )
    return LatencyReport(machine={"cpu": "x"}, measurements=(figure,))


def result(*, accurate: bool = True, fast: bool = True, failed: bool = False, out: Path | None = None) -> BuildResult:
    entry = FileEntry(name="parity.json", sha256="0" * 64, size=1200)
    timing = FileEntry(name="latency.json", sha256="1" * 64, size=900)
    steps = [
        Step("compile sm89", "failed", "no such operator", error=BuildError("no such operator", "r"))
        if failed
        else Step("compile sm89", "skipped"),
        Step("verify", "built", "never built before", Artifact("parity", Path("store"), (entry,)), "a" * 64, 1.5),
        Step("measure", "hit", "nothing changed", Artifact("latency", Path("store"), (timing,)), "b" * 64, 0.1),
    ]
    limit = 0.006 if fast else 0.004
    evidence = Evidence(parity(passed=accurate), latency(), failures=failures_of(steps), latency_limit=limit)
    return BuildResult(tuple(steps), out, verdict_of(evidence), evidence.parity, evidence.latency)


@pytest.mark.parametrize(
    ("accurate", "fast", "failed", "code"),
    [
        (True, True, False, 0),
        (False, True, False, 3),
        (True, False, False, 4),
        (False, False, False, 3),
        (False, False, True, 5),
    ],
)
def test_exit_code_is_that_of_the_worst(
    accurate: bool, fast: bool, failed: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made = result(accurate=accurate, fast=fast, failed=failed)
    assert made.verdict.exit_code == finish(Session(), "build", made) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("PASSED on" if code == 0 else "FAILED on")
    assert "the engine for sm89 (tensorrt, NVIDIA L4, 10 samples)" in last
    assert ("accuracy gate failed" in last) != accurate
    assert ("latency within limit" in last) == fast
    assert ("build failed: sm89" in last) == failed


def test_latency_on_a_gpu_is_judged_with_its_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    finish(Session(), "build", result(fast=False, out=tmp_path))
    out = capsys.readouterr().out
    assert "FAILED engine:sm89 median 2 ms, p99 5 ms (TensorRT on an RTX 4090)" in out
    assert "p99 limit 4 ms" in out
    assert out.splitlines()[-1] == f"next:   trtpipe inspect {tmp_path}/latency.json"


def test_every_reason_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    finish(Session(), "verify", result(accurate=False))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("FAILED lowered: off by 3") for line in lines)
    assert any(line.strip() == "engine:sm89: off by 4" for line in lines)


def test_json_has_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code = finish(Session(json=True), "build", result(fast=False))
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == code == 4
    assert document["passed"] is False
    verdict = document["verdict"]
    assert (verdict["outcome"], verdict["exit_code"]) == ("failed", 4)
    assert (verdict["accuracy"]["outcome"], verdict["latency"]["outcome"]) == ("passed", "failed")
    assert verdict["executed"] == [{"artifact": "engine:sm89", "runtime": "tensorrt", "device": "NVIDIA L4"}]


def test_random_samples_are_not_judged_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    made = result()
    assert made.parity is not None
    report = made.parity.model_copy(update={"synthetic": True})
    made = BuildResult(made.steps, None, verdict_of(Evidence(report)), report)
    assert finish(Session(), "build", made) == 0
    out = capsys.readouterr().out
    last = out.splitlines()[-1]
    assert last.startswith("NOT JUDGED on real data: ran the engine for sm89 (tensorrt, NVIDIA L4, 10 random samples)")
    assert "PASSED" not in out
    assert "within tolerance" not in out
    assert (made.accurate, made.fast) == (None, None)
    finish(Session(json=True), "build", made)
    assert json.loads(capsys.readouterr().out)["passed"] is None
