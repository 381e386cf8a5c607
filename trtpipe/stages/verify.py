"""verify: every artifact against the exported model and the one it was made from, on real data -> ``parity.json``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.judging import PYTORCH, judged
from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FULL_PRECISION
from trtpipe.errors import InputError, StageError
from trtpipe.progress import NullProgress
from trtpipe.reference.runnable import open_watched, runnable_targets, verification_data

if TYPE_CHECKING:
    from trtpipe.accuracy.custom import Metric
    from trtpipe.accuracy.parity import Contender, ParityRun
    from trtpipe.accuracy.recording import Recording
    from trtpipe.accuracy.reports import Comparison, MetricValue, Overflow
    from trtpipe.artifact import Artifact
    from trtpipe.config.job import Job
    from trtpipe.config.recipe import EvaluationSettings
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.reference.runnable import VerificationData
    from trtpipe.stages.stage import Inputs

PARITY, OUTPUTS = "parity.json", "outputs.json"
PROGRAM = "program"
#: The graphs' agreement must not pass for that of engines they were not made into.
_UNSEEN = "the engines are compiled from it, and only they show its accuracy; what was compared is the ONNX route's"
#: Share of integers that nothing judges, and that differ, from which on the user is told.
_MANY_DIFFER = 0.05


class Verify:
    """Compares outputs with Polygraphy and measures the task metric. A failed check is a verdict, not an error."""

    name = "verify"
    produces = "parity"
    version = 5
    packages = ("onnxruntime", "polygraphy", "numpy", "onnx-ir")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The graphs; PyTorch's outputs; the engines this machine can run; the evaluation data, else the calibration
        data."""
        labels = ["model", "simplified", "lowered", "reference", "evaluation-data", "calibration-data"]
        return (*labels, "engine") if runnable_targets(job.backend, job.targets) else tuple(labels)

    def skip(self, job: Job) -> str | None:
        """Never."""
        return None

    def key(self, job: Job) -> JSON:
        """Precision, tolerances, metric and the shapes of synthetic data."""
        from trtpipe.accuracy.custom import described

        return {
            "precision": job.profile.precision,
            "tolerance": job.profile.tolerance.to_dict(),
            "accuracy": job.profile.accuracy.to_dict(),
            "evaluation": described(job.recipe.evaluation),
            "metric_demanded": _demanded(job.recipe.evaluation),
            "shapes": [{name: list(shape) for name, shape in each.items()} for each in job.every_opt_shapes],
            "targets": [target.name for target in job.targets],
            **({"program": True} if _from_program(job) else {}),
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The reference runner, and the back-end where it runs engines."""
        found = load_backend("onnxruntime").fingerprint(job.settings)
        return (
            {**found, **load_backend(job.backend).fingerprint(job.settings)}
            if runnable_targets(job.backend, job.targets)
            else found
        )

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Run everything side by side, one feed at a time."""
        from trtpipe.accuracy.recording import Recording
        from trtpipe.accuracy.reports import ParityReport

        data = verification_data(inputs.datasets, inputs.graph(), job.every_opt_shapes)
        if data.synthetic:
            progress.warn(
                "no data was given: parity is checked on seeded random inputs, which says little about accuracy"
            )
        recording = Recording()
        with ExitStack() as stack:
            contenders = _contenders(job, inputs, workdir, stack)
            run, metrics = _measured(job, contenders, data, progress, recording)
            overflows = _overflows(job, contenders)
            pytorch = _against_pytorch(job, inputs, contenders)
        for leftover in workdir.glob("emulated.onnx*"):
            leftover.unlink()
        _tell_of_integers(run.comparisons, contenders[0].label, progress)
        not_run = _not_run(job)
        if PROGRAM in not_run:
            progress.warn(f"{PROGRAM}: {not_run[PROGRAM]}")
        recording.save(workdir / OUTPUTS)
        report = ParityReport(
            precision=job.profile.precision,
            reference=contenders[0].label,
            data=data.dataset.name,
            data_digest=data.dataset.digest(),
            evaluation=_evaluation_words(job.recipe.evaluation) if metrics else "",
            evaluation_digest=_evaluation_digest(job.recipe.evaluation) if metrics else "",
            synthetic=data.synthetic,
            feeds=run.feeds,
            samples=run.samples,
            comparisons=run.comparisons,
            links=run.links,
            pytorch=pytorch,
            metrics=metrics,
            max_drop=job.profile.accuracy.max_drop if metrics else None,
            digests={c.label: inputs.artifacts[c.label].files[0].sha256 for c in contenders},
            outputs_kept=len(recording.feeds),
            not_run=not_run,
            overflows=overflows,
            passed=True,
        )
        judged(report).write(workdir / PARITY)
        return Draft("parity", workdir, (PARITY, OUTPUTS)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """At least one comparison was made."""
        from trtpipe.accuracy.reports import ParityReport

        report = ParityReport.read(draft.path)
        if not report.feeds or not report.comparisons:
            raise StageError("nothing was compared", "give at least one sample and one artifact besides the reference")


def _contenders(job: Job, inputs: Inputs, workdir: Path, stack: ExitStack) -> list[Contender]:
    """Everything that can run here, opened: the reference first, each with the name of what it was made from."""
    from trtpipe.accuracy.parity import Contender

    onnx = load_backend("onnxruntime")
    found: list[Contender] = []
    for label in ("model", "simplified", "lowered"):
        if label not in inputs.artifacts:
            continue
        before = found[-1].label if found else ""
        if label == "lowered" and found:
            found.append(open_watched(inputs.path(label), job.profile.precision, workdir, job.settings, stack, before))
        else:
            runner = stack.enter_context(onnx.open(inputs.path(label), job.settings))
            found.append(Contender(label, runner, FULL_PRECISION, before=before))
    before = found[0].label if _from_program(job) else found[-1].label
    for engine in inputs.engines(runnable_targets(job.backend, job.targets)):
        found.append(_engine(job, engine, before, stack))
    return found


def _engine(job: Job, engine: Artifact, before: str, stack: ExitStack) -> Contender:
    from trtpipe.accuracy.parity import Contender

    runner = stack.enter_context(load_backend(job.backend).open(engine.path, job.settings))
    return Contender(engine.label, runner, job.profile.precision, before=before)


def _measured(
    job: Job, contenders: list[Contender], data: VerificationData, progress: Progress, recording: Recording
) -> tuple[ParityRun, tuple[MetricValue, ...]]:
    """Parity, and the task metric of every contender.

    Raises:
        InputError: a metric that was asked for cannot be measured.
    """
    from trtpipe.accuracy.measuring import whole_metric
    from trtpipe.accuracy.metrics import make_meter
    from trtpipe.accuracy.parity import compare

    evaluation = job.recipe.evaluation
    whole = whole_metric(evaluation)
    per_feed = evaluation is not None and data.labeled and whole is None
    meter = make_meter(evaluation) if evaluation and per_feed else None
    run = compare(contenders[0], contenders[1:], data.dataset, job.profile.tolerance, meter, progress, recording)
    if evaluation and whole:
        return run, _evaluated(whole, evaluation, contenders, progress)
    if evaluation and _demanded(evaluation) and not run.metrics:
        raise InputError(
            f"{data.dataset.name}: no labels, so {evaluation.metric} cannot be measured",
            "add labels (--labels NAME for an .npz), or remove the metric",
        )
    return run, run.metrics


def _evaluated(
    metric: Metric, evaluation: EvaluationSettings, contenders: list[Contender], progress: Progress
) -> tuple[MetricValue, ...]:
    """What ``evaluate(run)`` of the user's says of every contender."""
    from trtpipe.accuracy.custom import evaluate
    from trtpipe.accuracy.measuring import value_of

    values = []
    for done, contender in enumerate(contenders):
        progress.advance(f"evaluate {contender.label}", done, len(contenders))
        found = evaluate(metric, contender.runner.infer, evaluation.output)
        values.append(value_of(contender.label, contender.device, found, evaluation))
    return tuple(values)


def _against_pytorch(job: Job, inputs: Inputs, contenders: list[Contender]) -> tuple[Comparison, ...]:
    """Every contender against what PyTorch said to the samples of the reference stage."""
    if "reference" not in inputs.artifacts:
        return ()
    from trtpipe.accuracy.parity import Contender, compare
    from trtpipe.accuracy.recording import Feeds, Replay
    from trtpipe.report.stage_records import load_reference

    feeds, outputs = load_reference(inputs.path("reference"))
    source = Contender(PYTORCH, Replay(outputs, "PyTorch on CPU"), FULL_PRECISION)
    direct = [Contender(c.label, c.runner, c.precision, c.note) for c in contenders]
    return compare(source, direct, Feeds(feeds), job.profile.tolerance, None, NullProgress()).comparisons


def _tell_of_integers(comparisons: tuple[Comparison, ...], reference: str, progress: Progress) -> None:
    for comparison in comparisons:
        for output in comparison.outputs:
            unjudged = output.agreement is not None and output.tolerance.min_agreement is None
            if unjudged and output.mean_abs > _MANY_DIFFER:
                progress.warn(
                    f"{comparison.artifact}: {output.mean_abs:.0%} of the integers in output {output.output!r} differ "
                    f"from {reference}'s; judge them by a metric, or by --min-agreement {output.output}:SHARE"
                )


def _overflows(job: Job, contenders: list[Contender]) -> tuple[Overflow, ...]:
    from trtpipe.reference.storage import StorageWatch

    watches = [contender.runner for contender in contenders if isinstance(contender.runner, StorageWatch)]
    half = job.profile.precision.half
    return () if half is None else tuple(found for watch in watches for found in watch.overflows(half))


def _demanded(evaluation: EvaluationSettings | None) -> bool:
    """Whether the user named the metric, so that labels must be there."""
    return evaluation is not None and "metric" in evaluation.model_fields_set


def _evaluation_words(evaluation: EvaluationSettings | None) -> str:
    if evaluation is None:
        return ""
    metric = evaluation.metric.replace("\\", "/").rpartition("/")[2]  # a folder changes nothing
    return f"{metric} of {evaluation.output}" if evaluation.output else metric


def _evaluation_digest(evaluation: EvaluationSettings | None) -> str:
    from trtpipe.accuracy.custom import fingerprint

    return fingerprint(evaluation.metric) if evaluation is not None and evaluation.own else ""


def _not_run(job: Job) -> dict[str, str]:
    backend = load_backend(job.backend)
    refusals = {target.name: backend.runs(target) for target in job.targets}
    engines = {f"engine:{name}": refusal.reason for name, refusal in refusals.items() if refusal is not None}
    return {PROGRAM: _UNSEEN, **engines} if engines and _from_program(job) else engines


def _from_program(job: Job) -> bool:
    """Whether the engines are compiled from PyTorch's program, not from the lowered graph."""
    return load_backend(job.backend).consumes == PROGRAM
