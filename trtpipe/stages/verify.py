"""verify: every artifact against the exported model and the one it was made from, on real data -> ``parity.json``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.verdict import PYTORCH, with_verdict
from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FULL_PRECISION
from trtpipe.config.stage_settings import MetricSettings, VerifySettings, synthetic_shapes
from trtpipe.config.target import find_target
from trtpipe.errors import InputError, StageError
from trtpipe.isolation.worker import user_limits
from trtpipe.progress import NullProgress
from trtpipe.reference.runnable import open_watched, runnable_targets, verification_data
from trtpipe.stages.stage import METRIC, SAMPLES, Stage

if TYPE_CHECKING:
    from trtpipe.accuracy.custom import Metric
    from trtpipe.accuracy.parity import Contender, ParityRun
    from trtpipe.accuracy.recording import Recording
    from trtpipe.accuracy.reports import Comparison, MetricValue, Overflow
    from trtpipe.config.recipe import EvaluationSettings
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import BuildRequest
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress
    from trtpipe.reference.runnable import VerificationData
    from trtpipe.stages.stage import Inputs

PARITY, OUTPUTS = "parity.json", "outputs.json"
PROGRAM = "program"
#: The graphs' agreement must not pass for that of engines they were not made into.
_UNSEEN = "the engines are compiled from it, and only they show its accuracy; what was compared is the ONNX route's"
#: Share of differing integers, without a criterion of their own, from which on there is a warning.
_MANY_DIFFER = 0.05


class Verify(Stage[VerifySettings]):
    """Compares outputs with Polygraphy and measures the task metric. A failed check is a verdict, not an error."""

    name = "verify"
    produces = "parity"
    version = 6
    packages = ("onnxruntime", "polygraphy", "numpy", "onnx-ir")

    def settings(self, request: BuildRequest) -> VerifySettings:
        evaluation, profile = request.recipe.evaluation, request.profile
        return VerifySettings(
            precision=profile.precision,
            tolerance=profile.tolerance,
            metric=MetricSettings.of(evaluation),
            demanded=evaluation is not None and "metric" in evaluation.model_fields_set,
            max_drop=None if evaluation is None else profile.accuracy.max_drop,
            synthetic=synthetic_shapes(request),
            backend=request.backend,
            targets=tuple(target.name for target in request.targets),
        )

    def consumes(self, settings: VerifySettings) -> tuple[str, ...]:
        labels = ("model", "simplified", "lowered", "reference", SAMPLES, METRIC)
        return (*labels, "engine") if runnable_targets(settings.backend, settings.targets) else labels

    def fingerprint(self, settings: VerifySettings, runtime: Settings) -> dict[str, str]:
        """The reference runner, the back-end where it runs engines, and why engines do not run here."""
        found = {**load_backend("onnxruntime").fingerprint(runtime), **_not_run(settings)}
        if runnable_targets(settings.backend, settings.targets):
            found |= load_backend(settings.backend).fingerprint(runtime)
        return found

    def run(
        self, settings: VerifySettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> tuple[Draft, tuple[Path, ...]]:
        from trtpipe.accuracy.custom import fingerprint
        from trtpipe.accuracy.recording import Recording
        from trtpipe.accuracy.reports import ParityReport

        data = verification_data(inputs.datasets, inputs.graph(), settings.synthetic)
        if data.synthetic:
            progress.warn(
                "no data was given: parity is checked on seeded random inputs, which says little about accuracy"
            )
        recording = Recording()
        with ExitStack() as stack:
            contenders = _contenders(settings, inputs, workdir, runtime, stack)
            run, metrics = _measured(
                settings, inputs.metric, contenders, data, progress, recording, user_limits(runtime)
            )
            overflows = _overflows(settings, contenders)
            pytorch = _against_pytorch(settings, inputs, contenders)
        for leftover in workdir.glob("emulated.onnx*"):
            leftover.unlink()
        _tell_of_integers(run.comparisons, contenders[0].label, progress)
        not_run = _not_run(settings)
        if PROGRAM in not_run:
            progress.warn(f"{PROGRAM}: {not_run[PROGRAM]}")
        recording.save(workdir / OUTPUTS)
        report = ParityReport(
            precision=settings.precision,
            reference=contenders[0].label,
            data=data.dataset.name,
            data_digest=data.dataset.digest(),
            evaluation=_evaluation_words(settings.metric, inputs.metric) if metrics else "",
            evaluation_digest=fingerprint(inputs.metric) if metrics and inputs.metric else "",
            synthetic=data.synthetic,
            feeds=run.feeds,
            samples=run.samples,
            comparisons=run.comparisons,
            links=run.links,
            pytorch=pytorch,
            metrics=metrics,
            max_drop=settings.max_drop if metrics else None,
            digests={c.label: inputs.artifacts[c.label].files[0].sha256 for c in contenders},
            outputs_kept=len(recording.feeds),
            not_run=not_run,
            overflows=overflows,
            passed=True,
        )
        with_verdict(report).write(workdir / PARITY)
        return Draft("parity", workdir, (PARITY, OUTPUTS)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.accuracy.reports import ParityReport

        report = ParityReport.read(draft.path)
        if not report.feeds or not report.comparisons:
            raise StageError("nothing was compared", "give at least one sample and one artifact besides the reference")


def _contenders(
    settings: VerifySettings, inputs: Inputs, workdir: Path, runtime: Settings, stack: ExitStack
) -> list[Contender]:
    """Everything that can run here, opened: the reference first, each with the name of what it was made from."""
    from trtpipe.accuracy.parity import Contender

    onnx = load_backend("onnxruntime")
    found: list[Contender] = []
    for label in ("model", "simplified", "lowered"):
        if label not in inputs.artifacts:
            continue
        before = found[-1].label if found else ""
        if label == "lowered" and found:
            found.append(open_watched(inputs.path(label), settings.precision, workdir, runtime, stack, before))
        else:
            runner = stack.enter_context(onnx.open(inputs.path(label), runtime))
            found.append(Contender(label, runner, FULL_PRECISION, before=before))
    before = found[0].label if _from_program(settings) else found[-1].label
    for engine in inputs.engines(runnable_targets(settings.backend, settings.targets)):
        runner = stack.enter_context(load_backend(settings.backend).open(engine.path, runtime))
        found.append(Contender(engine.label, runner, settings.precision, before=before))
    return found


def _measured(
    settings: VerifySettings,
    function: str,
    contenders: list[Contender],
    data: VerificationData,
    progress: Progress,
    recording: Recording,
    limits: Limits,
) -> tuple[ParityRun, tuple[MetricValue, ...]]:
    """Parity, and the task metric of every contender.

    Args:
        function: where the user's own metric is, if there is one.

    Raises:
        InputError: a metric that was asked for cannot be measured.
    """
    from trtpipe.accuracy.metrics import make_meter, own_metric
    from trtpipe.accuracy.parity import compare

    evaluation = None if settings.metric is None else settings.metric.evaluation(function)
    own = own_metric(evaluation, limits)
    whole = own if own and own.whole else None
    per_feed = evaluation is not None and data.labeled and whole is None
    meter = make_meter(evaluation, own) if evaluation and per_feed else None
    run = compare(contenders[0], contenders[1:], data.dataset, settings.tolerance, meter, progress, recording)
    if evaluation and whole:
        return run, _evaluated(whole, evaluation, contenders, progress)
    if evaluation and settings.demanded and not run.metrics:
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

    values = []
    for done, contender in enumerate(contenders):
        progress.advance(f"evaluate {contender.label}", done, len(contenders))
        values.append(evaluate(metric, contender.runner.infer, evaluation, contender.label, contender.device))
    return tuple(values)


def _against_pytorch(settings: VerifySettings, inputs: Inputs, contenders: list[Contender]) -> tuple[Comparison, ...]:
    """Every contender against what PyTorch said to the samples of the reference stage."""
    if "reference" not in inputs.artifacts:
        return ()
    from trtpipe.accuracy.parity import Contender, compare
    from trtpipe.accuracy.recording import Feeds, Replay
    from trtpipe.reference.pytorch_outputs import load_reference

    feeds, outputs = load_reference(inputs.path("reference"))
    source = Contender(PYTORCH, Replay(outputs, "PyTorch on CPU"), FULL_PRECISION)
    direct = [Contender(c.label, c.runner, c.precision, c.note) for c in contenders]
    return compare(source, direct, Feeds(feeds), settings.tolerance, None, NullProgress()).comparisons


def _tell_of_integers(comparisons: tuple[Comparison, ...], reference: str, progress: Progress) -> None:
    for comparison in comparisons:
        for output in comparison.outputs:
            unjudged = output.agreement is not None and output.tolerance.min_agreement is None
            if unjudged and output.mean_abs > _MANY_DIFFER:
                progress.warn(
                    f"{comparison.artifact}: {output.mean_abs:.0%} of the integers in output {output.output!r} differ "
                    f"from {reference}'s; judge them by a metric, or by --min-agreement {output.output}:SHARE"
                )


def _overflows(settings: VerifySettings, contenders: list[Contender]) -> tuple[Overflow, ...]:
    from trtpipe.reference.storage import StorageWatch

    watches = [contender.runner for contender in contenders if isinstance(contender.runner, StorageWatch)]
    half = settings.precision.half
    return () if half is None else tuple(found for watch in watches for found in watch.overflows(half))


def _evaluation_words(metric: MetricSettings | None, function: str) -> str:
    if metric is None:
        return ""
    name = metric.name or function.replace("\\", "/").rpartition("/")[2]  # a folder changes nothing
    return f"{name} of {metric.output}" if metric.output else name


def _not_run(settings: VerifySettings) -> dict[str, str]:
    backend = load_backend(settings.backend)
    refusals = {name: backend.runs(find_target(name)) for name in settings.targets}
    engines = {f"engine:{name}": refusal.reason for name, refusal in refusals.items() if refusal is not None}
    return {PROGRAM: _UNSEEN, **engines} if engines and _from_program(settings) else engines


def _from_program(settings: VerifySettings) -> bool:
    """Whether the engines are compiled from PyTorch's program, not from the lowered graph."""
    return load_backend(settings.backend).consumes == PROGRAM
