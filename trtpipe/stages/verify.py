"""verify: every artifact against the exported model, on real data -> ``parity.json``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError, StageError
from trtpipe.profile import HALF
from trtpipe.stages.running import open_watched, runnable, runnable_engines

if TYPE_CHECKING:
    from trtpipe.accuracy.parity import Contender
    from trtpipe.accuracy.reports import MetricValue, Overflow, ParityReport
    from trtpipe.artifact import Artifact
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.progress import Progress
    from trtpipe.recipe import EvaluationSettings

PARITY = "parity.json"
#: Feeds of seeded random data where the user gave none.
_SYNTHETIC_FEEDS = 8
#: Share of integers that differ from which on the user is told.
_MANY_DIFFER = 0.05


class Verify:
    """Compares outputs with Polygraphy and measures the task metric. A failed check is a verdict, not an error."""

    name = "verify"
    produces = "parity"
    version = 3
    packages = ("onnxruntime", "polygraphy", "numpy", "onnx-ir")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The graphs; the engines that this machine can run; the evaluation data, else the calibration data."""
        labels = ["model", "simplified", "lowered", "evaluation-data", "calibration-data"]
        return (*labels, "engine") if runnable(job) else tuple(labels)

    def skip(self, job: Job) -> str | None:
        """Never."""
        return None

    def key(self, job: Job) -> JSON:
        """Precision, tolerances, metric and the shapes of synthetic data."""
        evaluation = job.recipe.evaluation
        described = evaluation.to_dict() if evaluation else {}
        described.pop("source", None)
        return {
            "precision": job.profile.precision,
            "tolerance": job.profile.tolerance.to_dict(),
            "accuracy": job.profile.accuracy.to_dict(),
            "evaluation": described,
            "metric_demanded": _demanded(evaluation),
            "shapes": {name: list(shape) for name, shape in job.opt_shapes.items()},
            "targets": [target.name for target in job.targets],
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The reference runner, and the back-end where it runs engines."""
        found = load_backend("onnxruntime").fingerprint(job.settings)
        return {**found, **load_backend(job.backend).fingerprint(job.settings)} if runnable(job) else found

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Run everything side by side, one feed at a time."""
        from trtpipe.accuracy.parity import Contender, compare

        dataset, synthetic, labelled = _data(job, inputs)
        evaluation = job.recipe.evaluation
        metric = (evaluation.metric, evaluation.output) if evaluation and labelled else None
        if synthetic:
            progress.warn(
                "no data was given: parity is checked on seeded random inputs, which says little about accuracy"
            )
        with ExitStack() as stack:
            onnx = load_backend("onnxruntime")
            labels = [label for label in ("model", "simplified", "lowered") if label in inputs.artifacts]
            reference = Contender(
                labels[0], stack.enter_context(onnx.open(inputs.path(labels[0]), job.settings)), "fp32"
            )
            others = []
            for label in labels[1:]:
                if label == "lowered":
                    others.append(open_watched(inputs.path(label), job.profile.precision, job, workdir, stack))
                else:
                    others.append(
                        Contender(label, stack.enter_context(onnx.open(inputs.path(label), job.settings)), "fp32")
                    )
            others += [_engine(job, engine, stack) for engine in runnable_engines(job, inputs)]
            run = compare(reference, others, dataset, job.profile.tolerance, metric, progress)
            overflows = _overflows(job, others)
        if evaluation and _demanded(evaluation) and not run.metrics:
            raise InputError(
                f"{dataset.name}: no labels, so {evaluation.metric} cannot be measured",
                "add labels (--labels NAME for an .npz), or remove the metric",
            )
        for comparison in run.comparisons:
            for output in comparison.outputs:
                if output.cosine is None and output.passed and output.mean_abs > _MANY_DIFFER:
                    progress.warn(
                        f"{comparison.artifact}: {output.mean_abs:.0%} of the integers in output {output.output!r} "
                        f"differ from {labels[0]}'s; judge them by a metric, or by --atol {output.output}:SHARE"
                    )
        for leftover in workdir.glob("emulated.onnx*"):
            leftover.unlink()
        from trtpipe.accuracy.reports import ParityReport

        report = ParityReport(
            precision=job.profile.precision,
            reference=labels[0],
            data=dataset.name,
            data_digest=dataset.digest(),
            synthetic=synthetic,
            feeds=run.feeds,
            samples=run.samples,
            comparisons=run.comparisons,
            metrics=run.metrics,
            max_drop=job.profile.accuracy.max_drop if run.metrics else None,
            not_run=_not_run(job),
            overflows=overflows,
            passed=True,
        )
        _judged(report).write(workdir / PARITY)
        return Draft("parity", workdir, (PARITY,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """At least one comparison was made."""
        from trtpipe.accuracy.reports import ParityReport

        report = ParityReport.read(draft.path)
        if not report.feeds or not report.comparisons:
            raise StageError("nothing was compared", "give at least one sample and one artifact besides the reference")


def _overflows(job: Job, contenders: list[Contender]) -> tuple[Overflow, ...]:
    from trtpipe.accuracy.storage import StorageWatch

    watches = [contender.runner for contender in contenders if isinstance(contender.runner, StorageWatch)]
    return tuple(found for watch in watches for found in watch.overflows(HALF[job.profile.precision]))


def _demanded(evaluation: EvaluationSettings | None) -> bool:
    """Whether the user named the metric, so that labels must be there."""
    return evaluation is not None and "metric" in evaluation.model_fields_set


def _not_run(job: Job) -> dict[str, str]:
    backend = load_backend(job.backend)
    refusals = {target.name: backend.runs(target) for target in job.targets}
    return {f"engine:{name}": refusal.reason for name, refusal in refusals.items() if refusal is not None}


def _engine(job: Job, engine: Artifact, stack: ExitStack) -> Contender:
    from trtpipe.accuracy.parity import Contender

    runner = stack.enter_context(load_backend(job.backend).open(engine.path, job.settings))
    return Contender(engine.label, runner, job.profile.precision)


def _data(job: Job, inputs: Inputs) -> tuple[Dataset, bool, bool]:
    """The samples to compare on; whether they are synthetic; whether they are the labelled evaluation data."""
    from trtpipe.calibration.synthetic import RandomDataset
    from trtpipe.onnxfile import read_contract

    if (evaluation := inputs.datasets.get("evaluation-data")) is not None:
        return evaluation, False, True
    if (calibration := inputs.datasets.get("calibration-data")) is not None:
        return calibration, isinstance(calibration, RandomDataset), False

    label = next((name for name in ("model", "simplified", "lowered") if name in inputs.artifacts), None)
    if label is None:
        raise InputError("there is no graph to verify", "give an ONNX model")
    return RandomDataset(read_contract(inputs.path(label)), job.opt_shapes, _SYNTHETIC_FEEDS, seed=0), True, False


def _judged(report: ParityReport) -> ParityReport:
    """The report with its verdict and the reasons for a bad one."""
    reasons = []
    for comparison in report.comparisons:
        for output in comparison.outputs:
            if not output.passed:
                cosine = "" if output.cosine is None else f", cosine {output.cosine:.4f}"
                reasons.append(
                    f"{comparison.artifact}: output {output.output!r} differs from {report.reference}: "
                    f"mean {output.mean_abs:.3g} of {output.scale:.3g}, max {output.max_abs:.3g}{cosine}"
                )
    if report.overflows:
        worst = report.overflows[0]
        reasons.append(
            f"lowered: {_counted(report.overflows)} in 16-bit storage; {worst.tensor!r} of node "
            f"{worst.node!r} reaches {worst.largest:.3g}"
        )
    reference = next((value for value in report.metrics if value.artifact == report.reference), None)
    for value in report.metrics:
        if reference is not None and _dropped(reference, value, report.max_drop or 0.0):
            reasons.append(
                f"{value.artifact}: {value.metric} {value.value:.4f} is {reference.value - value.value:.4f} below "
                f"{report.reference}'s {reference.value:.4f}; allowed are {report.max_drop}"
            )
    return report.model_copy(update={"reasons": tuple(reasons), "passed": not reasons})


def _counted(overflows: tuple[Overflow, ...]) -> str:
    return "1 tensor overflows" if len(overflows) == 1 else f"{len(overflows)} tensors overflow"


def _dropped(reference: MetricValue, value: MetricValue, max_drop: float) -> bool:
    return not reference.value - value.value <= max_drop + 1e-12
