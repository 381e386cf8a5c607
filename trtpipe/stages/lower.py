"""lower: ``simplified.onnx`` (and ranges) -> ``lowered.onnx``; from here on the precision is in the graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.autocast.half_precision import tensor_ranges_in
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FP32, FULL_PRECISION
from trtpipe.config.stage_settings import EngineSearchSettings, LowerSettings, QuantizationSettings
from trtpipe.errors import StageError
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.quantization.engine_search import EngineChoice, choose
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.stage import PLUGINS, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from trtpipe.artifact import Artifact
    from trtpipe.autocast.tensor_ranges import TensorRanges
    from trtpipe.calibration.corrections import Fallback
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.passes.decisions import NodeDecision
    from trtpipe.passes.graph_pass import GraphPass
    from trtpipe.progress import Progress
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.stages.stage import Inputs

LOWERED = "lowered.onnx"


class Lower(Stage[LowerSettings]):
    """Writes the precision into the graph: Q/DQ pairs, casts, or both; and records the decision for every node."""

    name = "lower"
    produces = "lowered"
    version = 23
    packages = ("onnx-ir", "onnx", "numpy", "ml-dtypes", "onnxruntime")  # the last judges what engines are compared for

    def settings(self, request: BuildRequest) -> LowerSettings:
        profile = request.profile
        quick = profile.precision.compared and load_backend(request.backend).quick_reports
        return LowerSettings(
            precision=profile.precision,
            keep=profile.keep if profile.precision is not FULL_PRECISION else (),
            quantization=QuantizationSettings.of(request, quick=quick),
            search=EngineSearchSettings.of(request, quick=quick),
        )

    def consumes(self, settings: LowerSettings) -> tuple[str, ...]:
        ranges = () if settings.quantization is None else ("ranges",)
        statistics = ("statistics",) if settings.precision.half else ()
        data = ("calibration-data",) if settings.search is not None else ()
        return ("simplified", *ranges, *statistics, *data, *((PLUGINS,) if _backend(settings) else ()))

    def fingerprint(self, settings: LowerSettings, runtime: Settings) -> dict[str, str]:
        backend = _backend(settings)
        return load_backend(backend).fingerprint(runtime) if backend else {}

    def run(
        self, settings: LowerSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.passes.decisions import work_share
        from trtpipe.preflight.onnx_io import save_model
        from trtpipe.quantization.mac_count import CountedGraph

        precision = settings.precision
        tensor_ranges = tensor_ranges_in(inputs.artifacts.get("statistics")) if precision.half else None
        shapes = {} if settings.quantization is None else settings.quantization.shapes
        path = workdir / LOWERED
        with TemporaryDirectory(dir=workdir) as folder:
            shared = None if settings.search is None else Path(folder)  # many graphs are written then
            graph = CountedGraph(inputs.path("simplified"), shapes, runtime, shared)
            choice = _chosen(settings, graph, tensor_ranges, inputs, Path(folder), progress)
            model = graph.load()
            decisions = _lower(settings, model, None if choice is None else choice.plan, tensor_ranges)
            _require_precision(settings, decisions)
            names = save_model(model, path)
        trials = () if choice is None else choice.trials
        fallback = None if choice is None else choice.plan.corrections.fallback
        # what was found for the whole plan says nothing of the part of it that the engine search chose
        beyond = () if trials else _beyond(settings, fallback)
        record = LowerRecord(
            precision=precision,
            opset=model.graph.opset_imports.get("", 0),
            counts=dict(sorted(Counter(decision.precision for decision in decisions).items())),
            nodes=decisions,
            samples=0 if tensor_ranges is None else tensor_ranges.samples,
            work=work_share(decisions) if settings.quantization is not None else None,
            trials=trials,
            fallback=fallback,
            warnings=(*_warnings(settings, decisions, compared=bool(trials)), *beyond),
            notes=_notes(settings, decisions, choice),
        )
        record.write(path.with_name(f"{LOWERED}.json"))
        return Draft("lowered", workdir, (*names, f"{LOWERED}.json"))

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """Patterns that match nothing; a lowering that changed little, or leaves outputs beyond tolerance."""
        return LowerRecord.read(artifact.sidecar).warnings

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """What is kept in higher precision, and what the engine search found."""
        return LowerRecord.read(artifact.sidecar).notes

    def check(self, draft: Draft, inputs: Inputs) -> None:
        broken = read_contract(inputs.path("simplified")).difference(read_contract(draft.path))
        if broken:
            raise StageError(f"lowering changed the interface: {broken}", "report this with the model")


def _backend(settings: LowerSettings) -> str:
    """The back-end whose engines are compared; empty where none are."""
    return settings.search.backend if settings.search is not None and settings.search.targets else ""


def lowering(
    settings: LowerSettings, plan: QuantizationPlan | None, tensor_ranges: TensorRanges | None
) -> tuple[GraphPass, ...]:
    """The passes that lower a graph, in order: what is quantized first, then 16 bits for the rest.

    Args:
        plan: of the graph, with ranges; ``None`` where nothing is quantized.
        tensor_ranges: what was measured on real data; ``None`` without.
    """
    from trtpipe.autocast.convert import CastPrecision
    from trtpipe.autocast.mask_bounds import HALF_FORM
    from trtpipe.passes.scan_slices import SeparateScanSlices
    from trtpipe.quantization.apply_corrections import WritePlan
    from trtpipe.quantization.per_tensor_scales import SplitScales

    half = settings.precision.half
    quantize = () if plan is None else (WritePlan(plan),)
    if half is None:
        return (*quantize, SeparateScanSlices())
    split = (SplitScales(),) if plan is not None and plan.split_scales else ()
    return (*HALF_FORM, *quantize, CastPrecision(half, settings.keep, tensor_ranges), *split, SeparateScanSlices())


def _lower(
    settings: LowerSettings, model: ir.Model, plan: QuantizationPlan | None, tensor_ranges: TensorRanges | None
) -> tuple[NodeDecision, ...]:
    """Lower a graph in place; what became of every node."""
    from trtpipe.autocast.convert import CastPrecision
    from trtpipe.passes.graph_pass import node_label, run_passes
    from trtpipe.quantization.apply_corrections import WritePlan
    from trtpipe.quantization.decision_record import merged

    half = settings.precision.half
    nodes = {node_label(node) for node in model.graph.all_nodes()}
    made = {result.name: result.decisions for result in run_passes(model, lowering(settings, plan, tensor_ranges))}
    quantized = made.get(WritePlan.name, ())
    return quantized if half is None else merged(quantized, made[CastPrecision(half).name], nodes)


def _chosen(
    settings: LowerSettings,
    graph: CountedGraph,
    tensor_ranges: TensorRanges | None,
    inputs: Inputs,
    workdir: Path,
    progress: Progress,
) -> EngineChoice | None:
    """What is quantized; ``None`` for nothing."""
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.data.dataset import unbatched
    from trtpipe.quantization.accuracy_check import AccuracyCheck
    from trtpipe.quantization.apply_corrections import apply_corrections
    from trtpipe.quantization.plan import plan

    if settings.quantization is None:
        return None
    model = graph.load()
    whole = plan(model, settings.quantization).calibrated(Ranges.read(inputs.path("ranges")))
    if settings.search is None:
        return EngineChoice(whole)
    whole = whole.keep(apply_corrections(graph.load(), whole).kept)

    def write(candidate: QuantizationPlan) -> ir.Model:
        copy = graph.load()
        _lower(settings, copy, candidate, tensor_ranges)
        return copy

    dataset = inputs.datasets.get("calibration-data")
    check: Callable[[QuantizationPlan], bool] = lambda candidate: True  # noqa: E731
    if dataset is None:
        progress.note(f"no calibration data: the accuracy of {settings.precision} was not compared with {whole.format}")
    else:
        check = AccuracyCheck(graph, whole, write, unbatched(dataset), workdir, settings.search)
    search, given = settings.search, model.graph.inputs
    return choose(search, whole, given, write, check, workdir, inputs.plugins, graph.runtime, progress)


def _require_precision(settings: LowerSettings, decisions: tuple[NodeDecision, ...]) -> None:
    """Refuse to pass a graph off as being in a precision that none of its Conv and GEMM nodes is in.

    Raises:
        StageError: the graph has Conv or GEMM nodes that are not kept, and none computes in what was asked for.
    """
    from trtpipe.passes.node_names import pattern_of
    from trtpipe.passes.operators import WEIGHTED

    asked = {form.label for form in settings.precision.formats}
    candidates = [
        decision
        for decision in decisions
        if decision.op in WEIGHTED and pattern_of(decision.node, settings.keep) is None
    ]
    own = any(decision.op == "DequantizeLinear" for decision in decisions)  # the model itself says what is quantized
    if not asked or not candidates or own or asked & {decision.precision for decision in decisions}:
        return
    first = candidates[0]
    raise StageError(
        f"{settings.precision} was asked for, and nothing can compute in it: {first.node} ({first.op}): {first.reason}",
        "build in another precision, or keep fewer nodes: trtpipe lower --explain gives the reason for each",
    )


def _warnings(settings: LowerSettings, decisions: tuple[NodeDecision, ...], *, compared: bool) -> list[str]:
    """What deserves attention: a lowering that changed nothing, or little; patterns that match nothing.

    Args:
        compared: whether engines showed which nodes are worth 8 bits; that note says how few they are.
    """
    from trtpipe.passes.decisions import shortfall, unmatched

    precision = settings.precision
    if not precision.formats:
        return []
    notes = unmatched(settings.keep, decisions)
    found = {decision.precision for decision in decisions}
    eight, half = (None if form is None else form.label for form in (precision.quantized, precision.half))
    if not found & {eight, half}:
        notes.append(
            f"no node could be lowered to {precision}: the engine will compute in {_floats(found)} (see {LOWERED}.json)"
        )
    elif compared:
        return notes
    elif eight is not None and eight not in found:
        notes.append(f"no node could be lowered to {eight}: the engine will compute in {half} (see {LOWERED}.json)")
    elif eight is not None and (sentence := shortfall(decisions)) is not None:
        notes.append(sentence)
    return notes


def _beyond(settings: LowerSettings, fallback: Fallback | None) -> tuple[str, ...]:
    """A warning where the outputs are beyond tolerance in spite of what is kept in higher precision."""
    if fallback is None or fallback.held or settings.precision.quantized is None:
        return ()
    return (
        f"the outputs are beyond tolerance on calibration samples, and no more than "
        f"{1 - fallback.least_coverage:.0%} of the quantizable work may be kept for them; "
        f"lower accuracy.min_coverage, or build without {settings.precision.quantized.name.upper()}",
    )


def _notes(
    settings: LowerSettings, decisions: tuple[NodeDecision, ...], choice: EngineChoice | None
) -> tuple[str, ...]:
    """What is kept in higher precision for accuracy, and what the engine search found."""
    from trtpipe.passes.decisions import kept_for_accuracy, work_share

    precision = settings.precision
    if choice is None or precision.quantized is None:
        return ()
    kept = None
    if choice.plan.corrections.fallback is not None and work_share(decisions).eight_bit:
        kept = kept_for_accuracy(decisions, precision.quantized.name.upper(), (precision.half or FP32).name.upper())
    return tuple(note for note in (kept, choice.note) if note)


def _floats(found: set[str]) -> str:
    """The floating-point types among some precisions."""
    return ", ".join(sorted(each for each in found if "float" in each)) or FP32.label
