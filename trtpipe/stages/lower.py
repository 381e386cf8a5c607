"""lower: ``simplified.onnx`` (and ranges) -> ``lowered.onnx``; from here on the precision is in the graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.autocast.half_precision import extents_in, left_in_half, prepare_half
from trtpipe.backends.base import load_backend
from trtpipe.config.formats import FP32
from trtpipe.config.stage_settings import EngineSearchSettings
from trtpipe.errors import StageError
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.quantization.apply_corrections import apply_corrections
from trtpipe.quantization.engine_search import Choice, choose
from trtpipe.quantization.mac_count import count_work
from trtpipe.quantization.search import SCALES_BEHIND, Placement
from trtpipe.report.stage_records import LowerRecord

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.autocast.tensor_ranges import Extents
    from trtpipe.config.job import Job
    from trtpipe.digest import JSON
    from trtpipe.passes.decisions import NodeDecision
    from trtpipe.passes.graph_pass import GraphPass
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

LOWERED = "lowered.onnx"


class Lower:
    """Writes the precision into the graph: Q/DQ pairs, casts, or both; and records the decision for every node."""

    name = "lower"
    produces = "lowered"
    version = 15
    packages = ("onnx-ir", "onnx", "numpy", "ml-dtypes")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The simplified graph; ranges for 8 bits; for 16 bits what was measured, where there is data."""
        precision = job.profile.precision
        ranges = ("ranges",) if precision.calibrated else ()
        return ("simplified", *ranges, *(("statistics",) if precision.half else ()))

    def skip(self, job: Job) -> str | None:
        """Never: fp32 is a precision like any other."""
        return None

    def key(self, job: Job) -> JSON:
        """The precision, the nodes the user keeps high, how far the scales of weights reach, the shapes work is
        counted at, the GPUs that placements are compared for.
        """
        eight_bit = job.profile.precision.quantized is not None
        return {
            "precision": job.profile.precision,
            "keep": list(job.profile.keep),
            "weights": job.recipe.weights if eight_bit else None,
            "int8_nodes": list(job.profile.int8_nodes) if job.profile.precision.mixed else None,
            "shapes": {name: list(shape) for name, shape in job.opt_shapes.items()} if eight_bit else None,
            "search": list(_search(job).targets),
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The back-end whose engines are compared, for ``best``."""
        return (
            {"name": job.backend, **load_backend(job.backend).fingerprint(job.settings)} if _search(job).targets else {}
        )

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Rewrite the graph."""
        from trtpipe.passes.decisions import work_share
        from trtpipe.preflight.onnx_io import save_model

        precision = job.profile.precision
        extents = extents_in(inputs.artifacts.get("statistics")) if precision.half else None
        choice = Choice()
        if precision.compared:
            choice = choose(
                _search(job),
                lambda placement: _lowered(job, inputs, extents, placement),
                workdir,
                job.settings,
                progress,
            )
        model, lowered = _lowered(job, inputs, extents, choice.placement)
        decisions = choice.explained(lowered)
        path = workdir / LOWERED
        names = save_model(model, path)
        notes = _notes(job, decisions, compared=bool(choice.trials))
        for note in notes:
            progress.warn(note)
        if choice.note:
            progress.note(choice.note)
            notes.append(choice.note)
        facts = LowerRecord(
            precision=precision,
            opset=model.graph.opset_imports.get("", 0),
            counts=dict(sorted(Counter(decision.precision for decision in decisions).items())),
            nodes=decisions,
            samples=0 if extents is None else extents.samples,
            work=work_share(decisions) if precision.quantized else None,
            trials=choice.trials,
            notes=tuple(notes),
        )
        facts.write(path.with_name(f"{LOWERED}.json"))
        return Draft("lowered", workdir, (*names, f"{LOWERED}.json")), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The interface is what it was."""
        broken = read_contract(inputs.path("simplified")).difference(read_contract(draft.path))
        if broken:
            raise StageError(f"lowering changed the interface: {broken}", "report this with the model")


def _search(job: Job) -> EngineSearchSettings:
    found = EngineSearchSettings.of(job, quick=load_backend(job.backend).quick_reports)
    return found or EngineSearchSettings()


def _lowered(
    job: Job, inputs: Inputs, extents: Extents | None, placement: Placement | None
) -> tuple[ir.Model, tuple[NodeDecision, ...]]:
    """A lowered copy of the graph: to 8 bits, to 16, or to 8 and what is left to 16.

    Args:
        placement: which nodes ``best`` computes in 8 bits; ``None``: all that may.
    """
    from trtpipe.autocast.convert import CastPrecision
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.passes.graph_pass import node_label, run_passes
    from trtpipe.quantization.per_tensor_scales import SplitScales
    from trtpipe.quantization.two_precisions import merged

    precision, keep = job.profile.precision, job.profile.keep
    model = load_clean(inputs.path("simplified"))
    if precision.half:
        prepare_half(model)
    nodes = {node_label(node) for node in model.graph.all_nodes()}
    eight: tuple[NodeDecision, ...] = ()
    if precision.quantized:
        count_work(model, inputs.path("simplified"), job.opt_shapes, job.settings)
        eight = run_passes(model, [_quantization(model, job, inputs, placement)])[0].decisions
    if precision.half is None:
        return model, eight
    half = run_passes(model, [CastPrecision(precision.half, keep, extents)])[0].decisions
    if placement is not None and placement.style == SCALES_BEHIND:
        run_passes(model, [SplitScales()])
    return model, merged(eight, half, nodes)


def _quantization(model: ir.Model, job: Job, inputs: Inputs, placement: Placement | None) -> GraphPass:
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.passes.decisions import UNREACHED
    from trtpipe.passes.macs import sizes_of
    from trtpipe.quantization.qdq import InsertQDQ

    precision, keep = job.profile.precision, job.profile.keep
    ranges = Ranges.read(inputs.path("ranges"))
    left = left_in_half(
        model,
        job.profile.int8_nodes if precision == "best" else None,
        None if placement is None else placement.nodes,
    )
    amax = apply_corrections(model, ranges, ranges.corrections, keep, left)
    sizes, high = sizes_of(model, job.opt_shapes), ranges.corrections.high
    unfit = {**ranges.unfit, **dict.fromkeys(ranges.unseen, UNREACHED)}
    scales = precision.half or FP32
    if precision.mixed:
        keep = (*keep, *left)
    attention = precision.compared and placement is not None  # whose products engines showed to pay, or are to show
    form, weights = precision.quantized_format, job.recipe.weights
    return InsertQDQ(form, amax, keep, weights, scales, sizes, unfit, attention, high)


def _notes(job: Job, decisions: tuple[NodeDecision, ...], *, compared: bool) -> list[str]:
    """What deserves attention: a lowering that changed nothing, or little; patterns that match nothing.

    Args:
        compared: whether engines showed which nodes are worth 8 bits; that note says how few they are.
    """
    from trtpipe.passes.decisions import shortfall, unmatched

    precision = job.profile.precision
    if not precision.formats:
        return []
    notes = unmatched(job.profile.keep, decisions)
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


def _floats(found: set[str]) -> str:
    """The floating-point types among some precisions."""
    return ", ".join(sorted(each for each in found if "float" in each)) or FP32.label
