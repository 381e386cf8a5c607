"""The records stored beside an engine and beside a PyTorch program."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trtpipe.artifact import IOContract, PublicRecord, Record
from trtpipe.config.profile import BuildSettings, ShapeRange
from trtpipe.engine.report import EngineReport

#: Flavor -> the runtimes that load its plans, where the name of the file would make one expect others.
_RUNTIMES: Mapping[str, str] = MappingProxyType(
    {"tensorrt-rtx": "the plans are for the TensorRT-RTX runtime, not for TensorRT, Triton or trtexec"}
)


def runtime_of(flavor: str) -> str:
    """A sentence that says which runtime loads the plans of a flavor; empty where that is TensorRT's own.

    >>> runtime_of("tensorrt")
    ''
    """
    return _RUNTIMES.get(flavor, "")


class EngineRecord(PublicRecord):
    """How an engine was built and what it contains: ``<target>.plan.json`` beside the plan.

    Attributes:
        flavor, version: the TensorRT that built it, for example ``tensorrt-rtx`` ``1.7.1.116``.
        target: what it is for, such as ``sm89``.
        targets: all targets of its plan; several if they share it.
        route: what made TensorRT's network of the model, if not TensorRT's ONNX parser.
        profiles: the optimization profiles, in the engine's order: dynamic input -> its shapes (for a shape tensor: its
            values). Empty for a static engine.
        io: inputs and outputs as the engine has them.
        layers: number of layers after fusion; ``None`` if the builder does not report it.
        precisions: how many engine layers compute in each type (``Int8``, ``Half``, ``Float``, ...).
        weight_bytes, activation_bytes: memory, reported by the builder (not measured).
        report: every layer, if the builder reports them.
        options: of the builder; ``None`` if an older trtpipe built it.
        digests: ``plan``: the sha256 of the plan's bytes; ``lowered``: the content of the graph it was built from.
        plugins: file name of each plug-in library -> digest of its content.
        build_seconds: wall time of parsing and building.
        warnings: of the builder.
        notes: how the engine differs from the lowered graph.
    """

    flavor: str
    version: str
    target: str
    targets: tuple[str, ...] = ()
    route: str = ""
    profiles: tuple[dict[str, ShapeRange], ...] = ()
    io: IOContract
    layers: int | None = None
    precisions: dict[str, int] = {}
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    report: EngineReport | None = None
    options: BuildSettings | None = None
    digests: dict[str, str] = {}
    plugins: dict[str, str] = {}
    build_seconds: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class EngineFigures(Record):
    """An engine in a few figures, to compare builds by; all reported by the builder (not measured).

    Attributes:
        size: of the plan, in bytes.
        layers: after fusion.
        kernels: layers that touch tensors.
        precisions: how many kernels (layers, if kernels are unknown) compute in each type.
        weight_bytes, activation_bytes: memory.
        bytes_read, bytes_written: of activations, by all kernels.
        separate: Q/DQ nodes that became separate kernels.
    """

    size: int
    flavor: str
    version: str
    layers: int | None = None
    kernels: int | None = None
    precisions: dict[str, int] = {}
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    separate: int | None = None

    @classmethod
    def of(cls, record: EngineRecord, size: int) -> EngineFigures:
        """The figures of an engine and its report; ``size`` of its plan in bytes."""
        report = record.report
        return cls(
            size=size,
            flavor=record.flavor,
            version=record.version,
            layers=record.layers,
            kernels=None if report is None else len(report.kernels),
            precisions=record.precisions if report is None else report.precisions,
            weight_bytes=record.weight_bytes,
            activation_bytes=record.activation_bytes,
            bytes_read=None if report is None else report.bytes_read,
            bytes_written=None if report is None else report.bytes_written,
            separate=None if report is None else len(report.separate),
        )


class ProgramRecord(Record):
    """``program.pt2.json``, beside a PyTorch program.

    Attributes:
        exporter: what wrote the program.
        precision: of its Conv and GEMM operators.
        contract: its inputs and outputs, under the names that an ONNX export gives them.
    """

    exporter: str
    precision: str
    contract: IOContract


class EngineTrial(Record):
    """One engine that was built for comparison.

    Attributes:
        target: the GPU it was built for.
        style: how scales were written into the graph; empty where nothing is quantized.
        nodes: how many nodes are quantized.
        kernels: of the engine.
        activation_bytes: written and read by all kernels.
        weight_bytes: read by all kernels.
        cost: the estimate that decided, in bytes.
    """

    target: str = ""
    style: str
    nodes: int
    kernels: int
    activation_bytes: int
    weight_bytes: int
    cost: float
