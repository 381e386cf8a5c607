"""An engine in a few figures, to compare builds by; nothing here is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.artifact import Record

if TYPE_CHECKING:
    from trtpipe.engine.record import EngineRecord


class EngineFigures(Record):
    """An engine in a few figures.

    Attributes:
        size: of the plan, in bytes.
        layers: after fusion.
        kernels: layers that touch tensors.
        precisions: how many kernels (where nothing is said of them: layers) compute in each type.
        weight_bytes, activation_bytes: as the builder reports them.
        bytes_read, bytes_written: of activations, by all kernels.
        separate: Q/DQ nodes that became kernels of their own.
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
    def of(cls, facts: EngineRecord, size: int) -> EngineFigures:
        """The figures of an engine and its report."""
        report = facts.report
        return cls(
            size=size,
            flavor=facts.flavor,
            version=facts.version,
            layers=facts.layers,
            kernels=None if report is None else len(report.kernels),
            precisions=facts.precisions if report is None else report.precisions,
            weight_bytes=facts.weight_bytes,
            activation_bytes=facts.activation_bytes,
            bytes_read=None if report is None else report.bytes_read,
            bytes_written=None if report is None else report.bytes_written,
            separate=None if report is None else len(report.separate),
        )
