"""What lies beside an engine and beside a PyTorch program: how it was built, and what it holds."""

from __future__ import annotations

from trtpipe.artifact import IOContract, Record
from trtpipe.config.profile import BuildSettings, ShapeRange
from trtpipe.engine.report import EngineReport


class EngineRecord(Record):
    """What is known of an engine: the ``<target>.plan.json`` beside the plain plan bytes.

    Attributes:
        flavor, version: what built it, for example ``tensorrt-rtx`` ``1.7.1.116``.
        target: the capability it is for.
        targets: every capability its plan is for; several where targets share one plan.
        route: what turned the model into TensorRT's network, where it was not TensorRT's ONNX parser.
        profiles: the optimization profiles, in the engine's order: dynamic input -> its shapes (for an input whose
            values decide shapes: its values). Empty for a static engine.
        io: inputs and outputs as the engine has them.
        layers: number of layers after fusion; ``None`` where the builder does not say.
        precisions: how many engine layers compute in each type (``Int8``, ``Half``, ``Float``, ...).
        weight_bytes, activation_bytes: as the builder reports them.
        report: every layer, as far as the builder says; ``None`` where it says nothing.
        options: what the builder was asked for; ``None`` where an older trtpipe built it.
        digests: ``plan``: the sha256 of the plan's bytes; ``lowered``: the content of the graph it was built from.
        plugins: file name of each plug-in library -> digest of its content.
        build_seconds: wall time of parsing and building.
        warnings: the builder's own words.
        notes: where the engine differs from the lowered graph.
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


class ProgramRecord(Record):
    """``program.pt2.json``: what lies beside a program of PyTorch's.

    Attributes:
        exporter: what wrote the program.
        precision: what its heavy operators compute in.
        contract: its inputs and outputs, under the names the ONNX route gives them.
    """

    exporter: str
    precision: str
    contract: IOContract
