"""What a verification found: ``parity.json``."""

from __future__ import annotations

from trtpipe.artifact import Record
from trtpipe.profile import OutputTolerance


class OutputParity(Record):
    """One output of one artifact against the reference, over all samples.

    Attributes:
        max_abs, max_rel: largest absolute and relative difference of any element.
        mean_abs, mean_rel, median_abs: of the differences of all elements; the median is that of chunks of samples,
            averaged.
        scale: mean magnitude of the reference's elements: what ``mean_abs`` is to be seen against.
        cosine: cosine similarity of the flattened outputs; ``None`` for integer outputs, whose differences are 0
            (equal) or 1 (not equal).
        snr_db: signal-to-noise ratio in dB over all samples; infinite when there is no difference.
        worst_feed: index of the feed with the largest absolute difference.
        tolerance: what was in force.
        passed: whether the tolerance holds.
    """

    output: str
    max_abs: float
    max_rel: float
    mean_abs: float
    mean_rel: float
    median_abs: float
    scale: float
    cosine: float | None
    snr_db: float
    worst_feed: int
    tolerance: OutputTolerance
    passed: bool


class Comparison(Record):
    """One artifact against the reference.

    Attributes:
        artifact: its label (``lowered``, ``engine:sm89``).
        runner: where it ran, in words.
    """

    artifact: str
    runner: str
    outputs: tuple[OutputParity, ...]

    @property
    def passed(self) -> bool:
        """Whether every output passed."""
        return all(output.passed for output in self.outputs)


class MetricValue(Record):
    """A task metric of one artifact."""

    artifact: str
    runner: str
    metric: str
    value: float
    samples: int


class Overflow(Record):
    """A tensor that 16-bit storage turns into infinity.

    Attributes:
        node: what computes it.
        largest: its largest finite magnitude, before it is stored.
    """

    tensor: str
    node: str
    largest: float


class ParityReport(Record):
    """``parity.json``: the verdict on accuracy.

    Attributes:
        reference: label of the artifact all others are compared with.
        data: what the samples are, in words; ``synthetic`` if they are random.
        metrics: the task metric of every artifact, where labels exist.
        max_drop: how far the lowered model's metric may fall below the reference's.
        not_run: engines that no device here can run, and why.
        overflows: what 16-bit storage cannot hold on this data, largest first.
        reasons: why the verdict is what it is, one line each, when it is "failed".
    """

    precision: str
    reference: str
    data: str
    data_digest: str
    synthetic: bool
    feeds: int
    samples: int
    comparisons: tuple[Comparison, ...]
    metrics: tuple[MetricValue, ...] = ()
    max_drop: float | None = None
    not_run: dict[str, str] = {}
    overflows: tuple[Overflow, ...] = ()
    reasons: tuple[str, ...] = ()
    passed: bool
