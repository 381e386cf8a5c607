"""The precision that was asked for, and what came out of it: by the lowering's record and the builder's report."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.config.formats import FORMATS, FP16, FP32, Precision
from trtpipe.config.units import format_bytes
from trtpipe.engine.agreement import compare, departures, named
from trtpipe.passes.decisions import FLOAT32_ALONE, KEPT, WorkShare
from trtpipe.passes.operators import RECURRENT, WEIGHTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtpipe.config.formats import Format
    from trtpipe.engine.record import EngineRecord
    from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
    from trtpipe.passes.decisions import NodeDecision
    from trtpipe.report.stage_records import LowerRecord

#: Element types of the builder that an engine in 16 bits has in 16 bits.
_NUMBERS = frozenset(word for form in FORMATS for word in form.engine)


class PrecisionFound(Record):
    """What a build computes in.

    Attributes:
        asked: by the profile.
        given: whether anything computes in it; for ``best``, in INT8 or FP16.
        nodes: precision -> how many nodes of the graph were lowered to it.
        layers: engine -> type -> how many Conv and GEMM layers compute in it, as the builder reports.
        work: the share of multiply-accumulates in 8 bits; ``None`` where none were asked for.
        remarks: what differs from what one would expect, and what to do.
    """

    asked: Precision
    given: bool
    nodes: dict[str, int] = {}
    layers: dict[str, dict[str, int]] = {}
    work: WorkShare | None = None
    remarks: tuple[str, ...] = ()


def precision_found(lowered: LowerRecord | None, engines: Mapping[str, EngineRecord]) -> PrecisionFound | None:
    """What was lowered and built; ``None`` where no record says what was asked for."""
    if lowered is None:
        return None
    asked = lowered.precision
    reports = {label: record.report for label, record in engines.items() if record.report is not None}
    given = _given(asked, lowered, reports)
    return PrecisionFound(
        asked=asked,
        given=given,
        nodes=lowered.counts,
        layers={label: report.conv_gemm_types for label, report in reports.items()},
        work=lowered.work,
        remarks=tuple(_remarks(asked, given, lowered, engines)),
    )


def _given(asked: Precision, lowered: LowerRecord, reports: Mapping[str, EngineReport]) -> bool:
    """Whether some node or kernel computes in a format of ``asked``; in 8 bits a Conv or GEMM layer, if any.

    What the builder reports of Conv and GEMM layers counts, and of other kernels in 16 bits; the lowering, where it
    reports none.
    A graph without Conv and GEMM layers has nothing that 16 bits would be for, and layers that TensorRT takes in
    float32 only have nothing else. Where the user's patterns keep what there is, nothing came of the precision.
    """
    if not asked.formats or (asked.quantized is None and _without_conv_gemm(lowered, reports)):
        return True
    if asked.half is not None and _in_float32_alone(lowered):
        return True
    labels = {form.label for form in asked.formats}
    types = frozenset(word for form in asked.formats for word in form.engine)
    kernels = [layer for report in reports.values() for layer in report.kernels]
    weighted = [layer for layer in kernels if layer.is_conv_gemm]
    if any(types & layer.types for layer in weighted):
        return True
    if _kept_by_user(asked, lowered):
        return False
    if weighted and not any(types & layer.types for layer in kernels if asked.half is not None):
        return False
    if asked.half is None and lowered.work is not None and lowered.work.total:
        return lowered.work.eight_bit > 0
    return any(node.precision in labels for node in lowered.nodes)


def _without_conv_gemm(lowered: LowerRecord, reports: Mapping[str, EngineReport]) -> bool:
    """By the graph too: the builder computes a small Gemm in a kernel of another kind."""
    if _weighted(lowered):
        return False
    return bool(reports) and not any(report.conv_gemm_types for report in reports.values())


def _weighted(lowered: LowerRecord) -> tuple[NodeDecision, ...]:
    """The Conv, GEMM and recurrent nodes."""
    return tuple(node for node in lowered.nodes if node.op in WEIGHTED | RECURRENT)


def _kept_by_user(asked: Precision, lowered: LowerRecord) -> tuple[str, ...]:
    """The Conv, GEMM and recurrent nodes that the user's patterns keep, if none computes in what was asked for."""
    labels, weighted = {form.label for form in asked.formats}, _weighted(lowered)
    if any(node.precision in labels for node in weighted):
        return ()
    return tuple(node.node for node in weighted if KEPT in node.reason)


def _in_float32_alone(lowered: LowerRecord) -> tuple[str, ...]:
    """The Conv, GEMM and recurrent nodes, if TensorRT takes each of them in float32 only; else none."""
    weighted = _weighted(lowered)
    alone = tuple(node.node for node in weighted if node.reason.startswith(FLOAT32_ALONE))
    return alone if len(alone) == len(weighted) else ()


def _remarks(asked: Precision, given: bool, lowered: LowerRecord, engines: Mapping[str, EngineRecord]) -> Iterator[str]:
    if not given:
        found = ", ".join(f"{count} {name}" for name, count in lowered.counts.items()) or "no node in scope"
        kept = [words for record in engines.values() for words in _kept_by_builder(lowered, record)]
        if kept:
            yield from dict.fromkeys(kept)
            return
        if by_user := _kept_by_user(asked, lowered):
            yield f"nothing was lowered to {asked}: --keep keeps {named(by_user)}"
            return
        yield f"nothing was lowered to {asked} ({found}): trtpipe inspect lowered.onnx gives the reason for each node"
        return  # what such an engine would cost is no matter
    labels = {form.label for form in asked.formats}
    if labels and not any(node.precision in labels for node in lowered.nodes):
        reports = {label: record.report for label, record in engines.items() if record.report is not None}
        if _without_conv_gemm(lowered, reports):
            yield f"nothing was lowered to {asked}: there is no Conv or GEMM layer"
        elif alone := _in_float32_alone(lowered):
            yield f"nothing was lowered to {asked}: TensorRT takes {', '.join(alone)} in float32 only"
    said: dict[str, list[str]] = {}
    for record in engines.values():
        for words in (*_departures(lowered, record), *_of_engine(asked, record)):
            said.setdefault(words, []).append(record.target)
    yield from (f"engine for {', '.join(targets)}: {words}" for words, targets in said.items())


def _kept_by_builder(lowered: LowerRecord, record: EngineRecord) -> Iterator[str]:
    if record.report is not None:
        yield from (agreement.note for agreement in compare(lowered.nodes, record.report) if agreement.raised)


def _departures(lowered: LowerRecord, record: EngineRecord) -> tuple[str, ...]:
    return () if record.report is None else departures(lowered.nodes, record.report)


def _of_engine(asked: Precision, record: EngineRecord) -> Iterator[str]:
    if record.report is not None and not asked.formats and (other := _other_than_float32(record.report)):
        yield f"the model itself computes in {other}, so the engine does too, and not in {FP32.name}"
    if asked.quantized is not None and asked.half is None and (words := dearer(record, asked.quantized)):
        yield f"{words}; {_instead(asked)}"


def _other_than_float32(report: EngineReport) -> str:
    """The types of the Conv and GEMM layers, where none is float32."""
    found = report.conv_gemm_types
    return ", ".join(found) if found and not any(word in found for word in FP32.engine) else ""


def _instead(asked: Precision) -> str:
    mixed = next((each for each in Precision if each.quantized is asked.quantized and each.mixed), None)
    if mixed is None or asked.quantized is None:
        return f"compare it with --{FP16}"
    return f"--{mixed} computes what is not in {asked.quantized.name} in {FP16.name}"


def dearer(record: EngineRecord, quantized: Format) -> str:
    """Why an engine costs more than one in fp16, by the builder's report; empty if it does not.

    The same kernels are counted with every float32 and quantized tensor inside in float16, without those that only
    quantize or dequantize. The cost of a kernel is that of the engine search: the bytes it moves, or its arithmetic.
    """
    from trtpipe.quantization.engine_cost import engine_cost

    report = record.report
    if report is None:
        return ""
    half = in_half(report, record)
    if engine_cost(report) <= engine_cost(half):
        return ""
    layers = Counter(layer.computes_in for layer in report.kernels if layer.is_conv_gemm)
    wide = sum(layers[word] for word in FP32.engine)
    return (
        f"{quantized.name} over {FP32.name} costs more than {FP16.name} would, by the builder's report: its "
        f"{len(report.kernels)} kernels move {format_bytes(report.bytes_moved)}, in {FP16.name} {len(half.kernels)} "
        f"would move {format_bytes(half.bytes_moved)}; {wide} of {sum(layers.values())} Conv/GEMM layers are in "
        f"{FP32.name}"
    )


def in_half(report: EngineReport, record: EngineRecord) -> EngineReport:
    """The same kernels with every float32 and quantized tensor inside in float16, without separate Q/DQ kernels.

    An estimate of the engine in fp16: the builder might fuse it otherwise.
    """
    outside = frozenset(spec.name for spec in (*record.io.inputs, *record.io.outputs))
    own = [layer for layer in report.layers if not (layer.nodes and set(layer.nodes) <= set(report.separate))]
    return report.model_copy(update={"layers": tuple(_in_half(layer, outside) for layer in own)})


def _in_half(layer: EngineLayer, outside: frozenset[str]) -> EngineLayer:
    def half(tensors: tuple[EngineTensor, ...]) -> tuple[EngineTensor, ...]:
        return tuple(
            tensor.model_copy(update={"type": FP16.engine[0]})
            if tensor.type in _NUMBERS and tensor.name not in outside
            else tensor
            for tensor in tensors
        )

    return layer.model_copy(
        update={"inputs": half(layer.inputs), "constants": half(layer.constants), "outputs": half(layer.outputs)}
    )
