"""The work of ``simplify``, done in a child process: onnxsim and shape inference may crash or hang on bad models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, ShapeInferencePass

from trtpipe.accuracy.alignment import largest_plain
from trtpipe.backends.base import load_backend
from trtpipe.config.settings import Settings
from trtpipe.data.input_checks import numpy_type
from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError, StageError
from trtpipe.exporter.onnx_import import node_count, weight_bytes
from trtpipe.exporter.request import RUN, SIMPLIFIED, SimplifyReply, SimplifyRequest
from trtpipe.isolation.imports import without
from trtpipe.isolation.linux import release_memory
from trtpipe.isolation.worker import Report
from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.contrib_operators import WriteContribOperators
from trtpipe.passes.empty_rows import AskMasks
from trtpipe.passes.expand_functions import ExpandFunctions
from trtpipe.passes.float32_forms import ComputeInFloat32
from trtpipe.passes.fold_batch_norm import FoldBatchNorm
from trtpipe.passes.fold_constants import FoldConstants
from trtpipe.passes.fuse_layer_norm import FuseLayerNorm
from trtpipe.passes.graph_pass import Borrowed, GraphPass, run_passes
from trtpipe.passes.importer_forms import ImporterForms
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.missing_forms import WriteMissingForms
from trtpipe.passes.node_names import lines_of, restore_lines
from trtpipe.passes.raise_opset import raise_opset
from trtpipe.passes.resolve_branches import ResolveBranches
from trtpipe.passes.sequences import WriteSequences
from trtpipe.passes.widen_bytes import WidenBytes
from trtpipe.preflight.onnx_io import contract_of, load_model, read_proto, save_model
from trtpipe.report.stage_records import OutputDifference, SimplifyRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import onnx

    from trtpipe.artifact import Feed, IOContract

#: protobuf holds less than 2 GB, and onnxsim and the opset converter work on one protobuf.
_PROTOBUF_LIMIT = 1_900_000_000
#: Largest accepted difference relative to the output's largest magnitude, and least fraction of equal integers.
_RELATIVE, _EQUAL_FRACTION = 1e-3, 0.99
#: onnxsim's fusions into operators that TensorRT's parser does not import; it and lowering need the MatMuls of an
#: attention as such.
_FOR_ONNXRUNTIME = ("fuse_attention", "fuse_gqa", "fuse_rope", "fuse_rms_norm")
_RESOLVED = "every If whose condition follows from fixed sizes or values was replaced by its branch"
_INFER_SHAPES = Borrowed(
    "infer_shapes", partial(ShapeInferencePass, check_type=False, strict_mode=False), one_protobuf=True
)

#: Before onnxsim. Types and shapes first: whether an operator is written otherwise, and how, depends on them.
KNOWLEDGE: tuple[GraphPass, ...] = (
    Borrowed("inline_functions", InlinePass),
    Borrowed("lift_constants", partial(LiftConstantsToInitializersPass, lift_all_constants=True, size_limit=0)),
    InferTypes(),
    _INFER_SHAPES,
)
EXPANSION: tuple[GraphPass, ...] = (
    WriteContribOperators(),
    WriteSequences(),
    WriteMissingForms(),
    ExpandFunctions(),
)

#: What no build does without.
READ_RIGHT: tuple[GraphPass, ...] = (_INFER_SHAPES, ImporterForms(), ComputeInFloat32(), WidenBytes())


def rewriting(fixed: Mapping[str, Sequence[int | None]]) -> tuple[GraphPass, ...]:
    """The passes after onnxsim and the raising of the opset, in order.

    Why none of the three that fold and fuse is borrowed from onnxscript: docs/lowering.md.

    Args:
        fixed: dynamic input -> the dimensions or values that never vary; see ``ResolveBranches``.
    """
    return (
        InferTypes(),
        FoldConstants(),
        ResolveBranches(fixed),
        _INFER_SHAPES,
        AskMasks(),
        FoldBatchNorm(),
        FuseLayerNorm(),
        *READ_RIGHT,
        _INFER_SHAPES,
        InferTypes(),
    )


def simplify(request: SimplifyRequest, report: Report) -> SimplifyReply:
    """Simplify, raise the opset, fold and fuse, infer types and shapes; then compare the result with the input, on real
    samples or on random ones.

    Raises:
        StageError: onnxsim failed, or the result differs from the input. The caller may try again without onnxsim.
    """
    notes = []
    source = Path(request.model)
    original = load_model(source)
    nodes_before = node_count(original)
    lines = lines_of(original)
    size = weight_bytes(original)
    small = size < _PROTOBUF_LIMIT
    if request.onnxsim and not small:
        notes.append("onnxsim was not tried: the weights exceed protobuf's 2 GB")
    onnxsim = request.onnxsim and small
    report(RUN, 0, 1)
    given_contract = contract_of(original)
    feeds, wanted, unchecked = _run(source, request, given_contract)
    report("simplify", 0, 3)
    rewrite = request.rewrite and small
    expanded = rewrite and _expanded(original)
    given = original if expanded or not onnxsim else None
    del original  # it takes as much memory as its weights, and onnxsim several times that
    release_memory(size)
    model = _onnxsim(source, given) if given is None or onnxsim else given
    del given
    clean_up(model)
    report("simplify", 1, 3)
    if rewrite:
        try:
            model = raise_opset(model, request.opset)
            clean_up(model)  # the converter turns attributes into Constant nodes
        except StageError as error:
            notes.append(error.message)
    passes = rewriting(request.fixed) if request.rewrite else (InferTypes(), *READ_RIGHT, InferTypes())
    results = run_passes(model, (each for each in passes if small or not each.one_protobuf))
    notes += [_RESOLVED for result in results if result.name == ResolveBranches.name and result.modified]
    restore_lines(model, lines)  # onnxsim and the opset converter drop metadata
    path = Path(request.workdir) / SIMPLIFIED
    names = save_model(model, path)
    nodes_after, opset, contract = node_count(model), model.graph.opset_imports.get("", 0), contract_of(model)
    del model
    release_memory(size)
    report("simplify", 2, 3)
    differences = _compare(wanted, path, feeds, {spec.name for spec in given_contract.outputs})
    if unchecked and onnxsim:
        raise StageError(f"its result could not be checked: {unchecked}", "run again with --no-simplify")
    notes += [unchecked] * bool(unchecked)
    record = SimplifyRecord(
        simplified=onnxsim,
        nodes_before=nodes_before,
        nodes_after=nodes_after,
        opset=opset,
        contract=contract,
        parity=differences,
        warnings=request.warnings,
        notes=tuple(notes),
    )
    record.write(path.with_name(f"{SIMPLIFIED}.json"))
    report("simplify", 3, 3)
    return SimplifyReply(names=names)


def _expanded(model: ir.Model) -> bool:
    """Write what TensorRT lacks otherwise; whether anything was."""
    run_passes(model, KNOWLEDGE)
    return any(result.modified for result in run_passes(model, EXPANSION))


def _onnxsim(source: Path, rewritten: ir.Model | None) -> ir.Model:
    """onnxsim's result for the file, which it reads itself, or for the rewritten model."""
    with without("torch"):
        import onnxsim

    try:
        proto = read_proto(source) if rewritten is None else ir.serde.serialize_model(rewritten)
        domains = _domains(proto)
        given = str(source) if rewritten is None else proto
        simplified, _ = onnxsim.simplify(given, skipped_optimizers=list(_FOR_ONNXRUNTIME))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError(f"onnxsim failed: {reason}", "run again with --no-simplify") from error
    if foreign := sorted(_domains(simplified) - domains):
        raise StageError(
            f"onnxsim added operators of the domain {foreign[0]!r}, which TensorRT does not have",
            "run again with --no-simplify",
        )
    return ir.serde.deserialize_model(simplified)


def _domains(proto: onnx.ModelProto) -> set[str]:
    """The domains of the operators in the main graph."""
    return {node.domain for node in proto.graph.node} | {"", "ai.onnx"}


def _run(model: Path, request: SimplifyRequest, contract: IOContract) -> tuple[list[Feed], list[Feed], str]:
    """Feeds, the model's outputs for them, and the reason if it cannot be run.

    This is the first time that a library runs the model; if that kills or blocks the process, the parent does not retry
    without onnxsim.
    """
    try:
        feeds = _feeds(request, contract)
        with load_backend("onnxruntime").open(model, Settings.in_child()) as runner:
            return feeds, [runner.infer(feed) for feed in feeds], ""
    except (InputError, StageError) as error:
        return [], [], f"the result was not compared with its input: {error.message}"


def _compare(
    wanted: list[Feed], result: Path, feeds: list[Feed], outputs: Collection[str]
) -> tuple[OutputDifference, ...]:
    """The difference of each output, and of what plug-ins read unless it was folded to a constant."""
    if not wanted:
        return ()
    try:
        with load_backend("onnxruntime").open(result, Settings.in_child()) as runner:
            found = [runner.infer(feed) for feed in feeds]
    except InputError as error:  # the same feed worked before
        raise StageError(f"simplification broke the graph: {error.message}", "run again with --no-simplify") from error
    return tuple(_difference(name, wanted, found) for name in wanted[0] if name in outputs or name in found[0])


def _feeds(request: SimplifyRequest, contract: IOContract) -> list[Feed]:
    if not request.feeds:
        return [sample.feed for sample in RandomDataset(contract, request.shapes, samples=2, seed=0)]
    feeds: dict[str, Feed] = {}
    with np.load(request.feeds, allow_pickle=False) as stored:
        for key in stored.files:
            feed, position = key.split("_")
            spec = contract.inputs[int(position)]
            feeds.setdefault(feed, {})[spec.name] = _restored(stored[key], numpy_type(spec, request.model))
    return list(feeds.values()) or [{}]  # a model without inputs


def _restored(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return value if dtype.isbuiltin == 1 else value.view(dtype)


def _difference(name: str, wanted: list[Feed], found: list[Feed]) -> OutputDifference:
    largest, total, count = 0.0, 0.0, 0
    for want, got in zip(wanted, found, strict=True):
        a, b = np.asarray(want[name]), np.asarray(got[name])
        if a.shape != b.shape:
            raise StageError(
                f"simplification changed the shape of output {name!r}: {a.shape} to {b.shape}",
                "run again with --no-simplify",
            )
        gap = absolute_gap(a, b)
        if not gap.size:
            continue
        exact = a.dtype.kind != "f"
        bound = _RELATIVE * max(1.0, 1.0 if exact else largest_plain(a))
        if (gap == 0).mean() < _EQUAL_FRACTION if exact else not gap.max() <= bound:
            raise StageError(
                f"simplification changed output {name!r} by up to {gap.max():.3g}", "run again with --no-simplify"
            )
        largest, total, count = max(largest, float(gap.max())), total + float(gap.sum()), count + gap.size
    return OutputDifference(output=name, max_abs=largest, mean_abs=total / count if count else 0.0)


def absolute_gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Absolute difference in float64; equal infinities, and NaN at the same position, count as equal."""
    if a.dtype.kind in "OSUc":  # bfloat16 is of kind "V"
        return np.asarray(a != b, np.float64)
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.abs(x - y))
