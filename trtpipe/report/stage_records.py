"""The JSON files that stages write beside ONNX files."""

from __future__ import annotations

from typing import ClassVar

from trtpipe.artifact import IOContract, Record
from trtpipe.calibration.corrections import Fallback
from trtpipe.config.formats import Precision
from trtpipe.config.stage_settings import NamedFormat
from trtpipe.engine.record import EngineTrial
from trtpipe.passes.decisions import NodeDecision, WorkShare


class OutputDifference(Record):
    """The largest and the mean absolute difference of one output from its reference."""

    output: str
    max_abs: float
    mean_abs: float


class ExportRecord(Record):
    """``model.onnx.json``.

    Attributes:
        exporter: the tool that wrote the graph.
        opset, nodes, weight_bytes: of the graph.
        contract: inputs and outputs of the graph.
        parity: PyTorch against onnxruntime on the example inputs; empty for an ONNX source.
        half: the 16-bit format that the PyTorch module computes in; ``None`` for float32.
        image_type: numpy's name of the type in which the model itself takes images, where it was made to take bytes.
    """

    exporter: str
    opset: int
    nodes: int
    weight_bytes: int
    contract: IOContract
    parity: tuple[OutputDifference, ...] = ()
    notes: tuple[str, ...] = ()
    half: NamedFormat | None = None
    image_type: str = ""


class SimplifyRecord(Record):
    """``simplified.onnx.json``.

    Attributes:
        simplified: whether onnxsim's result was taken.
        nodes_before, nodes_after: size of the graph.
        opset: of the result.
        parity: input against result, on two samples of the data, or seeded random ones.
        warnings: what failed, why, and which graph was taken instead.
        notes: what was resolved or left out, and why.
    """

    SCHEMA: ClassVar[int] = 3

    simplified: bool
    nodes_before: int
    nodes_after: int
    opset: int
    contract: IOContract
    parity: tuple[OutputDifference, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class LowerRecord(Record):
    """``lowered.onnx.json``: the precision of every node, and why.

    Attributes:
        precision: the one of the profile.
        counts: precision -> number of nodes.
        nodes: the decision for every node.
        samples: how many samples the tensor ranges for 16 bits come from; 0 where fixed rules decided.
        trials: engines that the engine search built; only for ``best``.
        work: for 8-bit precisions, the share of multiply-accumulates (MACs) in them.
        fallback: what was kept in higher precision for the outputs' sake; ``None`` for nothing.
        warnings: what deserves attention: patterns that match nothing, a lowering that changed little.
    """

    SCHEMA: ClassVar[int] = 3

    precision: Precision
    opset: int
    counts: dict[str, int]
    nodes: tuple[NodeDecision, ...]
    samples: int = 0
    trials: tuple[EngineTrial, ...] = ()
    work: WorkShare | None = None
    fallback: Fallback | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
