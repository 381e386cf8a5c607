"""A verdict: whether a gate holds, in one line with numbers."""

from __future__ import annotations

from trtpipe.artifact import Record


class Verdict(Record):
    """The outcome of one gate.

    Attributes:
        gate: ``accuracy`` or ``latency``.
        passed: ``None`` where it could not be judged.
        summary: the figures in one line.
    """

    gate: str
    passed: bool | None
    summary: str
