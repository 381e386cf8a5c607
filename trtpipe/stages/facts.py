"""The JSON sidecars: what the stages that write ONNX files say about them."""

from __future__ import annotations

from trtpipe.artifact import IOContract, Record
from trtpipe.engine.search import Trial
from trtpipe.passes.decisions import WorkShare
from trtpipe.passes.graph_pass import NodeDecision


class OutputDifference(Record):
    """How far one output is from its reference: largest and mean absolute difference."""

    output: str
    max_abs: float
    mean_abs: float


class ExportFacts(Record):
    """``model.onnx.json``.

    Attributes:
        exporter: what wrote the graph.
        opset, nodes, weight_bytes: of the graph.
        contract: its inputs and outputs.
        parity: PyTorch against onnxruntime on the example inputs; empty for an ONNX source.
    """

    exporter: str
    opset: int
    nodes: int
    weight_bytes: int
    contract: IOContract
    parity: tuple[OutputDifference, ...] = ()
    notes: tuple[str, ...] = ()


class SimplifyFacts(Record):
    """``simplified.onnx.json``.

    Attributes:
        simplified: whether onnxsim's result was taken.
        nodes_before, nodes_after: size of the graph.
        opset: of the result.
        parity: input against result, on two samples of the data, or seeded random ones.
        notes: what was tried and given up, and why.
    """

    simplified: bool
    nodes_before: int
    nodes_after: int
    opset: int
    contract: IOContract
    parity: tuple[OutputDifference, ...] = ()
    notes: tuple[str, ...] = ()


class LowerFacts(Record):
    """``lowered.onnx.json``: what is in which precision, and why.

    Attributes:
        precision: what was asked for.
        counts: how many of the judged nodes ended up in each precision.
        nodes: the decision for each of them.
        samples: how many samples showed what 16 bits have to hold; 0 where fixed rules decided.
        trials: engines that were built to find the cheapest placement; only for ``best``.
        work: for 8 bits, how much of the multiply-accumulates they hold.
    """

    precision: str
    opset: int
    counts: dict[str, int]
    nodes: tuple[NodeDecision, ...]
    samples: int = 0
    trials: tuple[Trial, ...] = ()
    work: WorkShare | None = None
    notes: tuple[str, ...] = ()
