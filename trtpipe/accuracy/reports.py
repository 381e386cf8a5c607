"""What a verification found: ``parity.json``."""

from __future__ import annotations

from pydantic import FiniteFloat

from trtpipe.accuracy.scores import Scores
from trtpipe.artifact import Record
from trtpipe.config.formats import Precision
from trtpipe.config.profile import OutputTolerance


class OutputParity(Record):
    """One output of one artifact against the reference, over all samples.

    Attributes:
        max_abs, max_rel: largest absolute and relative difference of any element.
        mean_abs, mean_rel, median_abs: of the differences of all elements; the median is that of chunks of samples,
            averaged.
        scale: mean magnitude of the reference's elements: what ``mean_abs`` is to be seen against.
        cosine: cosine similarity of the flattened outputs; ``None`` for integer outputs, whose differences are 0
            (equal) or 1 (not equal).
        agreement: share of equal values; ``None`` for float outputs.
        snr_db: signal-to-noise ratio in dB over all samples; infinite when there is no difference. What is no float has
            no signal: -infinite when there is one.
        worst_feed, worst_index: the feed with the largest absolute difference, and the element in its output.
        top1_agreement, top5_agreement: share of rows whose best class in the reference is the best (among the five
            best) here; ``None`` where the output is not [rows, classes].
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
    agreement: float | None = None
    snr_db: float
    worst_feed: int
    worst_index: tuple[int, ...] = ()
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    tolerance: OutputTolerance
    passed: bool


class Comparison(Record):
    """One artifact against another.

    Attributes:
        artifact: its label (``lowered``, ``engine:sm89``).
        against: the other one's; ``pytorch`` for the outputs of the source itself.
        runner: where it ran, in words.
    """

    artifact: str
    against: str
    runner: str
    outputs: tuple[OutputParity, ...]

    @property
    def passed(self) -> bool:
        """Whether every output passed."""
        return all(output.passed for output in self.outputs)


class MetricValue(Record):
    """A task metric of one artifact.

    Attributes:
        samples: how many it rests on; 0 where a function of the user's does not say.
        lower_is_better: whether it is an error.
        scores: what every sample contributed, where that is known.
        others: further figures of a function of the user's, which are not judged.
    """

    artifact: str
    runner: str
    metric: str
    value: FiniteFloat
    samples: int
    lower_is_better: bool = False
    scores: Scores | None = None
    others: dict[str, float] = {}

    def loss(self, reference: MetricValue) -> float:
        """By how much it is worse than ``reference``; negative where it is better."""
        return self.value - reference.value if self.lower_is_better else reference.value - self.value


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
        evaluation: the metric and what it reads, in words; empty for none. Figures are comparable where it is equal.
        evaluation_digest: of a function of the user's and the files beside it; empty for other metrics.
        comparisons: of every artifact with the reference.
        links: of every artifact with the one it was made from, where that is not the reference; they tell where
            something broke, and are not judged by themselves.
        pytorch: of every artifact with the outputs of the PyTorch source, on the samples the reference stage ran.
        metrics: the task metric of every artifact, where labels exist.
        max_drop: how far the lowered model's metric may fall below the reference's.
        digests: sha256 of every file that was run: the engine that is verified is the very file that ships.
        outputs_kept: feeds whose outputs ``outputs.json`` holds, to be judged again under other tolerances.
        broke: the first stage whose result differs, when the verdict is "failed"; empty where nothing says which.
        not_run: engines that no device here can run, and why; and PyTorch's program where these are compiled from it.
        overflows: what 16-bit storage cannot hold on this data, largest first.
        reasons: why the verdict is what it is, one line each, when it is "failed".
    """

    precision: Precision
    reference: str
    data: str
    data_digest: str
    evaluation: str = ""
    evaluation_digest: str = ""
    synthetic: bool
    feeds: int
    samples: int
    comparisons: tuple[Comparison, ...]
    links: tuple[Comparison, ...] = ()
    pytorch: tuple[Comparison, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    max_drop: float | None = None
    digests: dict[str, str] = {}
    outputs_kept: int = 0
    not_run: dict[str, str] = {}
    overflows: tuple[Overflow, ...] = ()
    reasons: tuple[str, ...] = ()
    broke: str = ""
    passed: bool
