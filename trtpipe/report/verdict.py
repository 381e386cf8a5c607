"""The verdict on a run: what was executed, where, on how many samples, and what the gates say of it.

``verdict_of`` makes it, and nothing else does: the terminal, the manifest, reports, JUnit, Markdown, ``--json`` and
Python results show this one record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import Record
from trtpipe.calibration.ranges import Ranges
from trtpipe.engine.record import EngineRecord, runtime_of
from trtpipe.errors import BuildError, StageError
from trtpipe.latency.reports import LatencyReport
from trtpipe.report.precision import PrecisionFound, precision_found
from trtpipe.report.stage_records import LowerRecord
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trtpipe.artifact import Artifact
    from trtpipe.latency.reports import Latency

Outcome: TypeAlias = Literal["passed", "failed", "not judged"]
#: How an outcome reads.
WORDS: Mapping[Outcome, str] = {"passed": "PASSED", "failed": "FAILED", "not judged": "NOT JUDGED"}
ACCURACY_FAILED, LATENCY_FAILED = 3, 4
#: The step of a failure that a calibration goes on without.
CORRECTIONS = "corrections"


class Execution(Record):
    """One artifact that was run and compared.

    Attributes:
        artifact: its label (``lowered``, ``engine:sm89``).
        runtime: what ran it: ``onnxruntime``, ``tensorrt``, ``tensorrt-rtx``.
        device: ``CPU``, or the name of the GPU.
    """

    artifact: str
    runtime: str
    device: str


class Failure(Record):
    """A stage that failed while the run went on.

    Attributes:
        step: the stage, with the target where there is one (``compile sm89``, ``measure``).
        reason: what was wrong.
        exit_code: that of its error.
    """

    step: str
    reason: str
    exit_code: int = StageError.exit_code


class Gate(Record):
    """What one gate says.

    Attributes:
        outcome: ``not judged`` where there is nothing to judge by.
        summary: the figures, or the reasons, in one line.
    """

    outcome: Outcome
    summary: str


class Verdict(Summarized, Record):
    """What a run is good for.

    Attributes:
        outcome: ``failed`` where the exit code is not 0; ``passed`` only where outputs on real data were judged, on two
            samples at least or by a metric.
        exit_code: of the command: 0, 3 (accuracy), 4 (latency), 5 (an engine, or the precision asked for, is missing),
            or that of an error that kept accuracy or latency from being judged.
        headline: all of it in one line, the last of the terminal; empty if there was nothing to judge.
        scope: what was executed, and what was not: ``on the lowered graph (onnxruntime, CPU, 449 samples); engine not
            executed``; empty if nothing was.
        executed: what was run and compared with the reference, and decides.
        not_executed: engine -> why it was not run.
        samples: how many samples outputs were compared on.
        data: ``real``, ``random``, or ``none`` if nothing was compared.
        accuracy, latency: the gates.
        precision: what was asked for and what came out; ``None`` if nothing was lowered or built.
        runtime: which runtimes load the engines; empty without engines.
        failures: targets without an engine, and stages that failed.
        handed_over: targets whose engines are built elsewhere, by the user's wish.
    """

    outcome: Outcome
    exit_code: int
    headline: str
    scope: str
    executed: tuple[Execution, ...] = ()
    not_executed: dict[str, str] = {}
    samples: int = 0
    data: Literal["real", "random", "none"] = "none"
    accuracy: Gate
    latency: Gate
    precision: PrecisionFound | None = None
    runtime: str = ""
    failures: tuple[Failure, ...] = ()
    handed_over: tuple[str, ...] = ()

    @property
    def summary(self) -> Summary:
        """Its headline, and what a user should know besides."""
        return Summary(self.headline or self.word, ("to be known",), tuple((remark,) for remark in self.remarks))

    @property
    def passed(self) -> bool | None:
        """``None`` where it was not judged."""
        return {"passed": True, "failed": False}.get(self.outcome)

    @property
    def word(self) -> str:
        """``PASSED``, ``FAILED`` or ``NOT JUDGED``."""
        return WORDS[self.outcome]

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know besides the headline: runtime, precision, what failed."""
        precision = () if self.precision is None else self.precision.remarks
        return (
            *(f"{failure.step}: {failure.reason}" for failure in self.failures),
            *(
                f"{name}: built elsewhere, in what trtpipe package make --handover {name} writes"
                for name in self.handed_over
            ),
            *precision,
            *((self.runtime,) if self.runtime else ()),
        )


@dataclass(frozen=True)
class Evidence:
    """The records that a verdict is made from.

    Attributes:
        engines: label -> its record.
        failures: of targets and stages.
        latency_limit: the p99 on a GPU that was asked for, in seconds.
        handed_over: targets whose engines are built elsewhere.
    """

    parity: ParityReport | None = None
    latency: LatencyReport | None = None
    lowered: LowerRecord | None = None
    engines: Mapping[str, EngineRecord] | None = None
    failures: tuple[Failure, ...] = ()
    latency_limit: float | None = None
    handed_over: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        artifacts: Iterable[Artifact],
        failures: Sequence[Failure] = (),
        *,
        latency_limit: float | None = None,
        handed_over: Sequence[str] = (),
    ) -> Evidence:
        """Read from what a run made, or what a bundle holds."""
        found = {artifact.label: artifact for artifact in artifacts}
        lowered = found.get("lowered")
        engines = {
            label: EngineRecord.read(each.sidecar)
            for label, each in found.items()
            if each.kind == "engine" and each.described
        }
        return cls(
            parity=ParityReport.read(found["parity"].path) if "parity" in found else None,
            latency=LatencyReport.read(found["latency"].path) if "latency" in found else None,
            lowered=LowerRecord.read(lowered.sidecar) if lowered is not None and lowered.described else None,
            engines=engines,
            failures=(*_failed_corrections(found), *failures),
            latency_limit=latency_limit,
            handed_over=tuple(handed_over),
        )


def _failed_corrections(artifacts: Mapping[str, Artifact]) -> Iterator[Failure]:
    """Corrections that a calibration went without, because looking for them failed."""
    if "ranges" in artifacts and (reason := Ranges.read(artifacts["ranges"].path).corrections_failed):
        yield Failure(step=CORRECTIONS, reason=reason)


def verdict_of(evidence: Evidence) -> Verdict:
    """The verdict on a run."""
    parity, engines = evidence.parity, evidence.engines or {}
    executed = () if parity is None else _executed(parity)
    not_executed = {} if parity is None else {k: why for k, why in parity.not_run.items() if k.startswith("engine:")}
    not_executed |= {f"engine:{name}": "handed over" for name in evidence.handed_over if parity is not None}
    accuracy, latency = _accuracy(evidence), _latency(evidence)
    precision = precision_found(evidence.lowered, engines)
    code = _exit_code(evidence, accuracy, latency, precision)
    outcome: Outcome = "failed" if code else accuracy.outcome
    if parity is None and not code and latency.outcome == "passed":
        outcome = "passed"
    scope = "" if parity is None else _scope(parity, executed, not_executed)
    runtimes = {text: None for record in engines.values() if (text := runtime_of(record.flavor))}
    plain = Verdict(
        outcome=outcome,
        exit_code=code,
        headline="",
        scope=scope,
        executed=executed,
        not_executed=not_executed,
        samples=0 if parity is None else parity.samples,
        data="none" if parity is None else "random" if parity.synthetic else "real",
        accuracy=accuracy,
        latency=latency,
        precision=precision,
        runtime="; ".join(runtimes),
        failures=evidence.failures,
        handed_over=evidence.handed_over,
    )
    return plain.model_copy(update={"headline": _headline(plain, evidence)})


def _executed(parity: ParityReport) -> tuple[Execution, ...]:
    """The engines that ran; where none did, the last graph before them."""
    found = []
    for comparison in parity.comparisons:
        runtime, _, device = comparison.runner.partition(" on ")
        found.append(Execution(
            artifact=comparison.artifact, runtime=runtime.partition(" ")[0], device=device.partition(",")[0]
        ))  # fmt: skip
    engines = tuple(each for each in found if each.artifact.startswith("engine:"))
    return engines or tuple(found[-1:])


def _scope(parity: ParityReport, executed: Sequence[Execution], not_executed: Mapping[str, str]) -> str:
    kind = "random " if parity.synthetic else ""
    some = f" of {parity.of_samples}" if parity.chosen else ""
    count = f"{parity.samples}{some} {kind}sample{'s' * (parity.samples != 1)}"
    places: dict[str, list[str]] = {}
    for each in executed:
        places.setdefault(f"{each.runtime}, {each.device}", []).append(each.artifact)
    parts = [f"{_named(labels)} ({place}, {count})" for place, labels in places.items()]
    targets = [label.partition(":")[2] for label in not_executed]
    if not targets:
        left = ""
    elif executed and executed[0].artifact.startswith("engine:"):
        left = f"; not executed: {_named(list(not_executed)).removeprefix('the ')}"
    else:
        left = "; engine not executed" if len(targets) == 1 else "; engines not executed"
    return f"on {' and '.join(parts)}{left}" if parts else ""


def _named(labels: Sequence[str]) -> str:
    targets = [label.partition(":")[2] for label in labels if label.startswith("engine:")]
    if targets:
        return f"the engine{'s' * (len(targets) > 1)} for {', '.join(targets)}"
    return f"the {labels[0]} graph" if labels and labels[0] != "model" else "the model"


def _accuracy(evidence: Evidence) -> Gate:
    report = evidence.parity
    if report is None:
        failed = _failed(evidence, "verify")
        return Gate(outcome="not judged", summary="nothing was compared" if failed is None else failed.reason)
    if report.reasons or not report.passed:
        where = f"; first failing stage: {report.failing_stage}" if report.failing_stage else ""
        return Gate(outcome="failed", summary="; ".join(report.reasons) + where)
    if report.synthetic:
        summary = f"not judged on real data: the outputs on {report.samples} random samples say little about accuracy"
        return Gate(outcome="not judged", summary=summary)
    if report.samples == 1 and not report.metrics:
        summary = "not judged on one sample: what the input changes in the outputs takes two to see"
        return Gate(outcome="not judged", summary=summary)
    if report.metrics:
        values = ", ".join(f"{value.artifact} {value.value:.4f}" for value in report.metrics)
        summary = f"{report.metrics[0].metric} on {report.metrics[0].samples or 'all'} samples: {values}"
    else:
        summary = (
            f"outputs within tolerance on {report.samples} real sample{'s' * (report.samples != 1)}{report.extent}"
        )
        if report.unjudged:
            summary += f"; {_not_judged(report)}"
    return Gate(outcome="passed", summary=summary)


def _not_judged(report: ParityReport) -> str:
    """Names the outputs without a limit."""
    return f"{', '.join(map(repr, report.unjudged))} not judged"


def _latency(evidence: Evidence) -> Gate:
    """Judged on GPU latencies only, and only where there is a limit."""
    report, limit = evidence.latency, evidence.latency_limit
    if report is None:
        failed = _failed(evidence, "measure")
        return Gate(outcome="not judged", summary="not measured here" if failed is None else failed.reason)
    summary = "; ".join(_times(each, alone=len(report.measurements) == 1) for each in report.measurements)
    on_gpu = [each.p99 for each in report.measurements if each.on_gpu]
    if limit is None or not on_gpu:
        return Gate(outcome="not judged", summary=summary)
    met = all(p99 <= limit * 1e3 for p99 in on_gpu)
    return Gate(outcome="passed" if met else "failed", summary=f"{summary}; p99 limit {limit * 1e3:.3g} ms")


def _times(measured: Latency, *, alone: bool) -> str:
    where = measured.runner if measured.on_gpu else f"{measured.runner}, not a GPU latency"
    name = measured.artifact if alone else f"{measured.artifact}, {measured.on}"
    unstable = "" if measured.stable else ", unstable"
    return f"{name} median {measured.median:.3g} ms, p99 {measured.p99:.3g} ms{unstable} ({where})"


def _failed(evidence: Evidence, stage: str) -> Failure | None:
    return next((failure for failure in evidence.failures if failure.step == stage), None)


def _exit_code(evidence: Evidence, accuracy: Gate, latency: Gate, precision: PrecisionFound | None) -> int:
    """That of the worst that happened; a limit of the tools (exit code 5) that leaves outputs unjudged is no failure.

    Where nothing was built, as after a lowering alone, the precision is not judged.
    """
    lost = any(failure.step.startswith("compile") for failure in evidence.failures)
    nothing = precision is not None and not precision.given and bool(evidence.engines)
    if lost or nothing:
        return BuildError.exit_code
    if accuracy.outcome == "failed":
        return ACCURACY_FAILED
    unjudged, unmeasured = _failed(evidence, "verify"), _failed(evidence, "measure")
    if unjudged is not None and unjudged.exit_code != StageError.exit_code:
        return unjudged.exit_code
    if latency.outcome == "failed":
        return LATENCY_FAILED
    return unmeasured.exit_code if unmeasured is not None and evidence.latency_limit is not None else 0


def _headline(verdict: Verdict, evidence: Evidence) -> str:
    parts = [_first(verdict, evidence), *_more(verdict, evidence)]
    return "; ".join(part for part in parts if part)


def _first(verdict: Verdict, evidence: Evidence) -> str:
    """The word, and what it is about."""
    if evidence.parity is None:
        if verdict.outcome != "not judged":
            return verdict.word
        if _failed(evidence, "verify"):
            return f"{verdict.word}: verify failed"
        return "" if evidence.latency_limit is None else verdict.word
    if verdict.outcome == "not judged":
        data = "on real data" if evidence.parity.synthetic else "on one sample"
        return f"{verdict.word} {data}: ran {verdict.scope}".replace("ran on ", "ran ")
    return f"{verdict.word} {verdict.scope}".rstrip()


def _more(verdict: Verdict, evidence: Evidence) -> Iterator[str]:
    """Why it failed; then the latency gate, where there is a limit."""
    lost = [failure.step.removeprefix("compile ") for failure in verdict.failures if "compile" in failure.step]
    if lost:
        yield f"build failed: {', '.join(lost)}"
    if verdict.handed_over:
        yield f"handed over: {', '.join(verdict.handed_over)}"
    if verdict.precision is not None and not verdict.precision.given and evidence.engines:
        yield f"nothing computes in {verdict.precision.asked}"
    if verdict.accuracy.outcome == "passed" and evidence.parity is not None and evidence.parity.unjudged:
        yield _not_judged(evidence.parity)
    if verdict.accuracy.outcome == "failed":
        stage = evidence.parity.failing_stage if evidence.parity is not None else ""
        yield "accuracy gate failed" + (f", first in {stage}" if stage else "")
    if verdict.exit_code and _failed(evidence, "verify"):
        yield "accuracy not judged: verify failed"
    if verdict.latency.outcome != "not judged":
        yield "latency within limit" if verdict.latency.outcome == "passed" else "latency gate failed"
    elif _failed(evidence, "measure"):
        yield "latency not measured: measure failed"
    elif evidence.latency_limit is not None:
        yield "latency gate not evaluated: no engine was timed"
