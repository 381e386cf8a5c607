"""verify: every artifact against the exported model and the one it was made from, on real data -> ``parity.json``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.verdict import PYTORCH, with_verdict
from trtpipe.artifact import Draft, Observed
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import synthetic_shapes
from trtpipe.config.formats import FP32, FULL_PRECISION, coarser, is_quantized
from trtpipe.config.stage_settings import MetricSettings, VerifySettings
from trtpipe.config.target import find_target
from trtpipe.data.input_checks import are_pixels
from trtpipe.data.selection import Spread
from trtpipe.errors import InputError, StageError, TrtpipeError
from trtpipe.isolation.worker import user_limits
from trtpipe.passes.decisions import kept_for_accuracy, shortfall, work_share
from trtpipe.progress import NullProgress
from trtpipe.reference.runnable import open_watched, runnable_targets, verification_data
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.stage import METRIC, SAMPLES, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtpipe.accuracy.custom import Metric
    from trtpipe.accuracy.parity import Contender, ParityRun
    from trtpipe.accuracy.recording import Recording
    from trtpipe.accuracy.reports import Comparison, MetricValue, Overflow, ParityReport
    from trtpipe.artifact import Artifact
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.formats import Format
    from trtpipe.config.recipe import EvaluationSettings
    from trtpipe.config.settings import Settings
    from trtpipe.data.dataset import Dataset
    from trtpipe.data.sample import Sample
    from trtpipe.isolation.reducer import Runner
    from trtpipe.progress import Progress
    from trtpipe.reference.runnable import VerificationData
    from trtpipe.stages.stage import Inputs

PARITY, OUTPUTS = "parity.json", "outputs.json"
PROGRAM, ENGINE = "program", "engine:"
_RANDOM = "no data was given: parity is checked on seeded random inputs, which says little about accuracy"
#: The graphs' agreement must not pass for that of engines they were not made into.
_UNSEEN = "the engines are compiled from it, and only they show its accuracy; what was compared is the ONNX route's"
#: Share of differing integers, without a criterion of their own, from which on there is a warning.
_MANY_DIFFER = 0.05
#: Nodes that are listed.
_NAMED = 8
#: Operators of any domain that round to a grid: QuantizeLinear, DynamicQuantizeLinear.
_QUANTIZER = "QuantizeLinear"


class Verify(Stage[VerifySettings]):
    """Compares outputs with Polygraphy and measures the task metric. A failed check is a verdict, not an error."""

    name = "verify"
    produces = "parity"
    version = 15
    packages = ("onnxruntime", "polygraphy", "numpy", "onnx-ir")
    optional = ("reference",)

    def settings(self, request: BuildRequest) -> VerifySettings:
        evaluation, profile = request.recipe.evaluation, request.profile
        return VerifySettings(
            precision=profile.precision,
            tolerance=profile.tolerance,
            metric=MetricSettings.of(evaluation),
            demanded=evaluation is not None and "metric" in evaluation.model_fields_set,
            limits=profile.accuracy.of(None if evaluation is None else evaluation.metric),
            samples=profile.accuracy.samples,
            synthetic=synthetic_shapes(request),
            backend=request.backend,
            targets=tuple(target.name for target in request.targets),
        )

    def consumes(self, settings: VerifySettings) -> tuple[str, ...]:
        labels = ("model", "simplified", "statistics", "lowered", "reference", SAMPLES, METRIC)
        return (*labels, "engine") if runnable_targets(settings.backend, settings.targets) else labels

    def fingerprint(self, settings: VerifySettings, runtime: Settings) -> dict[str, str]:
        """The reference runner, the back-end where it runs engines, and why engines do not run here."""
        found = {**load_backend("onnxruntime").fingerprint(runtime), **_not_run(settings)}
        if runnable_targets(settings.backend, settings.targets):
            found |= load_backend(settings.backend).fingerprint(runtime)
        return found

    def run(
        self, settings: VerifySettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.accuracy.custom import digest_of_code
        from trtpipe.accuracy.metrics import own_metric
        from trtpipe.accuracy.recording import Recording
        from trtpipe.accuracy.reports import ParityReport

        data = verification_data(inputs.datasets, inputs.graph(), settings.synthetic)
        recording = Recording()
        with ExitStack() as stack:
            contenders = _contenders(settings, inputs, workdir, runtime, stack)
            evaluation = None if settings.metric is None else settings.metric.evaluation(inputs.metric)
            own = own_metric(evaluation, user_limits(runtime))
            spread = _spread(settings, evaluation, own, data)
            run, metrics = _measured(settings, evaluation, own, contenders, data, spread, progress, recording)
            seen = tuple(_seen_before(inputs, data, contenders)) if metrics else ()
            overflows = _overflows(settings, contenders)
            pytorch = _against_pytorch(settings, inputs, contenders, real=not data.synthetic)
        observed = own.read() if own else Observed()
        for leftover in workdir.glob("emulated.onnx*"):
            leftover.unlink()
        recording.save(workdir / OUTPUTS)
        report = ParityReport(
            precision=settings.precision,
            reference=contenders[0].label,
            data=data.dataset.name,
            data_digest=data.dataset.digests().inputs,
            inputs_digest=run.inputs_digest,
            labels_digest=run.labels_digest,
            preprocessing=data.dataset.preprocessing,
            evaluation=_evaluation_words(settings.metric, inputs.metric) if metrics else "",
            evaluation_digest=digest_of_code(observed) if metrics and own else "",
            synthetic=data.synthetic,
            feeds=run.feeds,
            samples=run.samples,
            of_samples=spread.seen,
            chosen=tuple(spread.rows) if run.samples < spread.seen else (),
            comparisons=_numbered(run.comparisons, spread.feeds),
            links=_numbered(run.links, spread.feeds),
            pytorch=pytorch,
            metrics=metrics,
            max_drop=settings.limits.max_drop if metrics else None,
            min_metric=settings.limits.min_metric,
            digests={c.label: inputs.artifacts[c.label].files[0].sha256 for c in contenders},
            outputs_kept=len(recording.feeds),
            not_run=_not_run(settings) | _left_out(inputs.path(contenders[0].label)),
            overflows=overflows,
            classes=data.dataset.classes,
            doubts=(*_doubts(data, run, metrics), *seen),
            passed=True,
        )
        judged = _explained(with_verdict(report), inputs)
        _with_origin(judged, inputs, data.dataset, workdir, runtime).write(workdir / PARITY)
        return Draft("parity", workdir, (PARITY, OUTPUTS), observed=observed)

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """Random data, what was not compared, integers that differ unjudged, doubts about the data or the metric."""
        from trtpipe.accuracy.reports import ParityReport

        report = ParityReport.read(artifact.path)
        not_compared = (f"{what}: {reason}" for what, reason in report.not_run.items() if not what.startswith(ENGINE))
        random = (_RANDOM,) if report.synthetic else ()
        return (*random, *_unjudged_integers(report), *not_compared, *report.doubts)

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.accuracy.reports import ParityReport

        report = ParityReport.read(draft.path)
        if not report.feeds or not report.comparisons:
            raise StageError("nothing was compared", "give at least one sample and one artifact besides the reference")


def _explained(report: ParityReport, inputs: Inputs) -> ParityReport:
    """A failed verdict with the layers that are in higher precision all the same, and whether no more may be."""
    lowered = inputs.artifacts.get("lowered")
    if report.passed or lowered is None or not lowered.described:
        return report
    record = LowerRecord.read(lowered.sidecar)
    form, half = record.precision.quantized, record.precision.half or FP32
    if form is None:
        return report
    kept = kept_for_accuracy(record.nodes, form.name.upper(), half.name.upper())
    share = f"{form.name.upper()} coverage {work_share(record.nodes).share:.1%} of MACs, no layer kept for accuracy"
    others = [each.node for each in record.nodes if each.macs and not is_quantized(each.precision)]
    named = f" ({', '.join(others[:_NAMED])})" if others else ""
    reason = f"lowered: {kept or (shortfall(record.nodes) or share) + named}"
    if record.fallback is not None and not record.fallback.held:
        reason += f"; accuracy.min_coverage ({record.fallback.least_coverage:.0%}) allows no more"
    return report.model_copy(update={"reasons": (*report.reasons, reason)})


def _with_origin(report: ParityReport, inputs: Inputs, data: Dataset, workdir: Path, runtime: Settings) -> ParityReport:
    """A failed verdict on a graph in 16 bits with the node that most of the error comes from, where it is one."""
    from trtpipe.reference.error_origin import error_origin

    precision = report.precision
    compared = next((each for each in report.comparisons if each.artifact == "lowered" and not each.passed), None)
    if report.passed or compared is None or precision.quantized is not None or precision.half is None:
        return report
    failed = next(output for output in compared.outputs if not output.passed)
    feed = next(islice((sample.feed for sample in data), failed.worst_feed, None))
    exact = inputs.path("simplified" if "simplified" in inputs.artifacts else "model")
    try:
        origin = error_origin(exact, inputs.path("lowered"), failed.output, feed, workdir, runtime)
    except TrtpipeError as error:  # with all tensors visible a graph needs far more memory
        found = f"the node it arises in was not found: {error.message}"
    else:
        found = "it adds up over many nodes" if origin is None else str(origin)
    reason = f"lowered: of the error of output {failed.output!r}, {found}"
    return report.model_copy(update={"reasons": (*report.reasons, reason)})


def _contenders(
    settings: VerifySettings, inputs: Inputs, workdir: Path, runtime: Settings, stack: ExitStack
) -> list[Contender]:
    """Everything that can run here, opened: the reference first, each with the name of what it was made from."""
    from trtpipe.accuracy.parity import Contender

    first = inputs.graph()
    steps = first is not None and _rounds_to_steps(first)
    found: list[Contender] = []
    for label in ("model", "simplified", "lowered"):
        if label not in inputs.artifacts:
            continue
        before = found[-1].label if found else ""
        if label == "lowered" and found:
            found.append(open_watched(inputs.path(label), settings.precision, workdir, runtime, stack, before))
        else:
            found.append(Contender(label, _float32(label, inputs, runtime, stack), FULL_PRECISION, before=before))
    before = found[0].label if _from_program(settings) else found[-1].label
    for engine in inputs.engines(runnable_targets(settings.backend, settings.targets)):
        runner = stack.enter_context(load_backend(settings.backend).open(engine.path, runtime))
        found.append(Contender(engine.label, runner, settings.precision, before=before))
    return [replace(each, precision=coarser(each.precision, None, steps=steps)) for each in found]


def _float32(label: str, inputs: Inputs, runtime: Settings, stack: ExitStack) -> Runner:
    """A runner of a graph in float32; what ``observe`` computed with the simplified one is not computed again."""
    from trtpipe.calibration.statistics_file import load_outputs_of
    from trtpipe.preflight.onnx_io import read_contract
    from trtpipe.reference.reference_outputs import KnownOutputs

    onnx, path = load_backend("onnxruntime"), inputs.path(label)

    def opened() -> Runner:
        return stack.enter_context(onnx.open(path, runtime))

    if label != "simplified" or "statistics" not in inputs.artifacts:
        return opened()
    names = [spec.name for spec in read_contract(path).outputs]
    device = f"onnxruntime {onnx.fingerprint(runtime)['onnxruntime']} on CPU, by observe"
    return KnownOutputs(load_outputs_of(inputs.path("statistics")), names, device, opened)


def _rounds_to_steps(model: Path) -> bool:
    """Whether a graph quantizes activations itself, so that a rounding before may become a whole step."""
    from trtpipe.preflight.onnx_io import read_proto

    graph = read_proto(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    return any(node.op_type.endswith(_QUANTIZER) and node.input[0] not in constants for node in graph.node)


def _spread(
    settings: VerifySettings, evaluation: EvaluationSettings | None, own: Metric | None, data: VerificationData
) -> Spread:
    """The samples that outputs are compared on: all where a metric is measured on them, else a few."""
    from trtpipe.accuracy.metrics import make_meter

    per_feed = evaluation is not None and data.labeled and not (own and own.whole)
    needs_labels = not (evaluation and per_feed) or make_meter(evaluation, data.dataset.classes, own)().needs_labels

    def takes_all(first: Sample) -> bool:
        return data.synthetic or (per_feed and (first.labels is not None or not needs_labels))

    return Spread(data.dataset, settings.samples, takes_all)


def _numbered(comparisons: Sequence[Comparison], feeds: Sequence[int]) -> tuple[Comparison, ...]:
    """With the numbers that feeds have in the data set."""
    return tuple(
        each.model_copy(
            update={
                "outputs": tuple(
                    output.model_copy(update={"worst_feed": feeds[output.worst_feed]}) for output in each.outputs
                )
            }
        )
        for each in comparisons
    )


def _measured(
    settings: VerifySettings,
    evaluation: EvaluationSettings | None,
    own: Metric | None,
    contenders: list[Contender],
    data: VerificationData,
    spread: Spread,
    progress: Progress,
    recording: Recording,
) -> tuple[ParityRun, tuple[MetricValue, ...]]:
    """Parity, and the task metric of every contender.

    Args:
        own: the user's own metric, if there is one.
        spread: the samples.

    Raises:
        InputError: a metric that was asked for cannot be measured.
    """
    from trtpipe.accuracy.metrics import make_meter
    from trtpipe.accuracy.parity import compare

    whole = own if own and own.whole else None
    per_feed = evaluation is not None and data.labeled and whole is None
    meter = make_meter(evaluation, data.dataset.classes, own) if evaluation and per_feed else None
    reference, *others = contenders
    real = not data.synthetic
    run = compare(reference, others, spread, settings.tolerance, meter, progress, recording, real=real)
    if run.empty:
        raise InputError(
            f"{data.dataset.name}: no output has a value that counts on any sample, so nothing was compared",
            "give samples on which the model finds something, and let [tolerance] ignore leave something of them",
        )
    metrics = _evaluated(whole, evaluation, contenders, progress) if evaluation and whole else run.metrics
    known = {value.metric for value in metrics}
    if other := next((name for name in settings.limits.min_metric if known and name not in known), ""):
        one = min(known)
        raise InputError(f"min_metric {other}: the metric is {one}", f"write {one}=VALUE")
    if evaluation and (settings.demanded or settings.limits.min_metric) and not metrics:
        raise InputError(
            f"{data.dataset.name}: no labels, so {evaluation.metric} cannot be measured",
            "add labels (--labels NAME for an .npz), or remove the metric",
        )
    return run, metrics


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


def _against_pytorch(
    settings: VerifySettings, inputs: Inputs, contenders: list[Contender], *, real: bool
) -> tuple[Comparison, ...]:
    """Every contender against what PyTorch said to the samples of the reference stage."""
    if "reference" not in inputs.artifacts:
        return ()
    from trtpipe.accuracy.parity import Contender, compare
    from trtpipe.accuracy.recording import Feeds, Replay
    from trtpipe.reference.pytorch_outputs import load_reference

    feeds, outputs = load_reference(inputs.path("reference"))
    source = Contender(PYTORCH, Replay(outputs, "PyTorch on CPU"), FULL_PRECISION)
    half = _half_of_source(inputs)
    direct = [Contender(c.label, c.runner, coarser(c.precision, half), c.note) for c in contenders]
    run = compare(source, direct, Feeds(feeds), settings.tolerance, None, NullProgress(), real=real)
    return run.comparisons


def _half_of_source(inputs: Inputs) -> Format | None:
    """The 16-bit format that PyTorch itself computed in: its outputs are no closer to the truth than that."""
    from trtpipe.report.stage_records import ExportRecord

    model = inputs.artifacts.get("model")
    known = model is not None and any(entry.name == model.sidecar.name for entry in model.files)
    return ExportRecord.read(model.sidecar).half if model is not None and known else None


def _unjudged_integers(report: ParityReport) -> Iterator[str]:
    for comparison in report.comparisons:
        for output in comparison.outputs:
            ungated = output.agreement is not None and output.tolerance.min_agreement is None
            if ungated and output.mean_abs > _MANY_DIFFER:
                yield (
                    f"{comparison.artifact}: {output.mean_abs:.0%} of the values in output {output.output!r} differ "
                    f"from {report.reference}'s; evaluate a metric, or give --min-agreement {output.output}:SHARE"
                )


def _doubts(data: VerificationData, run: ParityRun, metrics: tuple[MetricValue, ...]) -> tuple[str, ...]:
    """Reasons to doubt the data or the metric."""
    found = list(data.dataset.warnings) if data.labeled else []
    for name, (low, high) in run.extremes.items() if data.labeled else ():
        if are_pixels(low, high):
            found.append(f"input {name!r} spans {low:g} to {high:g}: these look like pixels not normalized")
    for value in metrics[:1]:
        if value.chance is None and value.value == 0 and not value.lower_is_better:
            found.append(f"{value.artifact}: {value.metric} is 0: check the labels and the function that measures it")
    if run.samples == 1 and not data.synthetic:
        found.append(
            "what the input changes is not seen on one sample: errors are compared with how the elements of an output "
            "differ"
        )
    return (*found, *run.hints)


def _seen_before(inputs: Inputs, data: VerificationData, contenders: list[Contender]) -> Iterator[str]:
    """Evaluation samples that calibration has seen too: those whose outputs ``observe`` kept. That all are, the bundle
    says.
    """
    from trtpipe.calibration.statistics_file import read_data_summary
    from trtpipe.reference.reference_outputs import KnownOutputs

    hits = sum(each.runner.hits for each in contenders if isinstance(each.runner, KnownOutputs))
    calibrated = read_data_summary(inputs.path("statistics")) if hits else None
    if calibrated is not None and calibrated.digest != data.dataset.digests().inputs:
        yield (
            f"at least {hits} of the feeds with evaluation data are calibration data, too: measure the metric on "
            "samples that calibration has not seen"
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
    engines = {f"{ENGINE}{name}": refusal.reason for name, refusal in refusals.items() if refusal is not None}
    return {PROGRAM: _UNSEEN, **engines} if engines and _from_program(settings) else engines


def _left_out(model: Path) -> dict[str, str]:
    """The plug-ins of a graph, which only TensorRT runs: they and what follows were not compared."""
    import onnx_ir as ir

    from trtpipe.passes.graph_pass import node_label
    from trtpipe.passes.plugins import plugin_nodes
    from trtpipe.preflight.onnx_io import read_proto

    nodes = plugin_nodes(ir.serde.deserialize_model(read_proto(model)))
    words = "is a plug-in, which only TensorRT runs: what it reads was compared, it and what follows were not"
    return {f"node {node_label(node)}": f"{node.op_type} {words}" for node in nodes}


def _from_program(settings: VerifySettings) -> bool:
    """Whether the engines are compiled from PyTorch's program, not from the lowered graph."""
    return load_backend(settings.backend).consumes == PROGRAM
