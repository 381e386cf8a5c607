"""What is shown of a graph, and of what the stages wrote beside it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trtpipe.config.formats import FP32
from trtpipe.config.units import format_bytes, format_count
from trtpipe.views.blocks import Block, Table, facts, notes, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from trtpipe.engine.record import ProgramRecord
    from trtpipe.passes.decisions import NodeDecision, WorkShare
    from trtpipe.report.graph import GraphSummary
    from trtpipe.report.program import ProgramSummary
    from trtpipe.report.stage_records import ExportRecord, LowerRecord, SimplifyRecord


def graph(found: GraphSummary, limit: int | None) -> Iterator[Block]:
    """What is in an ONNX file."""
    weights = ", ".join(f"{format_bytes(size)} {dtype}" for dtype, size in found.weights.items())
    yield facts(
        [
            ("opset", ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())),
            ("producer", found.producer or "unknown"),
            ("inputs", "\n".join(map(str, found.contract.inputs))),
            ("outputs", "\n".join(map(str, found.contract.outputs))),
            ("weights", f"{format_bytes(found.weight_bytes)}" + (f": {weights}" if weights else "")),
            *((("external", "\n".join(found.external)),) if found.external else ()),
            (
                "precision",
                f"{found.quantize} QuantizeLinear, {found.dequantize} DequantizeLinear, {found.casts} Cast nodes",
            ),
            ("nodes", str(found.nodes)),
        ]
    )
    yield _operators(found.operators, limit)


def program(found: ProgramSummary, limit: int | None) -> Iterator[Block]:
    """What is in a ``.pt2`` file."""
    weights = format_bytes(found.weight_bytes)
    yield facts([("written by", f"torch {found.torch}"), ("weights", weights), ("nodes", str(found.nodes))])
    yield _operators(found.operators, limit)


def captured(found: ProgramRecord) -> Block:
    """What is known of a program that trtpipe wrote."""
    return facts(
        [
            ("exported by", found.exporter),
            ("precision", found.precision),
            ("inputs", "\n".join(map(str, found.contract.inputs))),
            ("outputs", "\n".join(map(str, found.contract.outputs))),
        ]
    )


def _operators(found: Mapping[str, int], limit: int | None) -> Table:
    rows = [(name, str(count)) for name, count in Counter(found).most_common()]
    return table(("operator", "count"), rows, right=("count",), limit=limit)


def exported(found: ExportRecord) -> Iterator[Block]:
    """Who exported a graph, and how far it is from PyTorch."""
    yield facts([("exported by", found.exporter), *notes(found.notes)])
    if found.parity:
        yield table(
            ("output", "max difference from PyTorch", "mean"),
            [(each.output, f"{each.max_abs:.3g}", f"{each.mean_abs:.3g}") for each in found.parity],
        )


def simplified(found: SimplifyRecord) -> Iterator[Block]:
    """What simplifying did."""
    who = "onnxsim and trtpipe" if found.simplified else "trtpipe alone"
    yield facts([("simplified by", f"{who}: {found.nodes_before} nodes, now {found.nodes_after}"), *notes(found.notes)])


def lowered(found: LowerRecord, limit: int | None) -> Iterator[Block]:
    """What lowering decided, node by node."""
    counts = ", ".join(f"{count} {precision}" for precision, count in found.counts.items())
    work = [] if found.work is None else [("in 8 bits", share(found.work))]
    yield facts([("lowered to", f"{found.precision}: {counts or 'no node was judged'}"), *work, *notes(found.notes)])
    if found.trials:
        yield _trials(found)
    if found.nodes:
        rows = [(node.node, node.op, node.precision, node.reason) for node in found.nodes]
        yield table(("node", "operator", "precision", "because"), rows, limit=limit)


def _trials(found: LowerRecord) -> Table:
    """The engines that were compared to find the cheapest placement."""
    headers = (
        "compared",
        "target",
        f"in {found.precision.quantized}",
        "kernels",
        "activations moved",
        "weights",
        "estimated cost",
    )
    rows = [
        (
            trial.style or (found.precision.half or FP32).storage,
            trial.target,
            str(trial.nodes),
            str(trial.kernels),
            format_bytes(trial.activation_bytes),
            format_bytes(trial.weight_bytes),
            format_bytes(round(trial.cost)),
        )
        for trial in found.trials
    ]
    return table(headers, rows, right=headers[2:])


def share(work: WorkShare) -> str:
    """How much of the work is in 8 bits."""
    reached = f"; {100 * work.share_reached:.1f} % of what calibration samples reached" if work.unreached else ""
    return (
        f"{100 * work.share:.1f} % of {format_count(work.total)} multiply-accumulates of Conv, ConvTranspose, Gemm "
        f"and MatMul{reached}"
    )


def explanation(decisions: Iterable[NodeDecision]) -> Iterator[Block]:
    """One block a node."""
    for each in decisions:
        yield facts(
            [
                ("node", each.node),
                ("operator", each.op),
                ("precision", each.precision),
                ("because", each.reason),
                *([] if each.macs is None else [("work", f"{format_count(each.macs)} multiply-accumulates")]),
            ]
        )
