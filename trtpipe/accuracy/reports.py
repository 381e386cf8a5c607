"""The result of a verification: ``parity.json``."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import FiniteFloat

from trtpipe.accuracy.meter import Scores
from trtpipe.accuracy.output_metrics import Criterion
from trtpipe.artifact import PublicRecord, Record
from trtpipe.config.formats import Precision
from trtpipe.config.profile import OutputTolerance
from trtpipe.config.recipe import Preprocessing
from trtpipe.summary import Summarized, Summary


class OutputParity(Record):
    """One output of one artifact against the reference, over all samples.

    Attributes:
        max_abs, max_rel: largest absolute and relative difference over all elements that count: not those that the
            profile ignores, nor infinities and fillings (-1e9 in masked logits) that are equal in both.
        mean_abs, mean_rel, median_abs: of the differences of these elements; the median is that of chunks of samples,
            averaged.
        scale: mean magnitude of the reference's elements.
        spread: root mean square of what the samples change in the reference: ``x - m``, with ``m`` the mean of an
            element over samples. Errors have to be small beside it.
        about_mean: whether ``cosine`` and ``snr_db`` are of ``x - m``; else of ``x``: random inputs, or an output that
            no sample changes. Of a single sample ``m`` is the mean of its elements.
        cosine: cosine similarity over all samples; ``None`` for integer outputs, whose differences are 0
            (exact match) or 1.
        agreement: share of exact matches; ``None`` for float outputs. A value that more than half of the reference
            has (a background) is left out where both have it, if more than one value differs.
        snr_db: signal-to-noise ratio in dB over all samples; infinite when there is no difference. Integers have no
            signal: -infinite when there is a difference.
        worst_feed, worst_index: the feed with the largest absolute difference, and the element in its output.
        top1_agreement, top5_agreement: share of rows whose best class in the reference is the best (among the five
            best) here; ``None`` where the output is not [rows, classes].
        tolerance: the limits in force.
        passed: whether the output is within tolerance.
        broken: the limits that do not hold; none where it passed.
    """

    output: str
    max_abs: float
    max_rel: float
    mean_abs: float
    mean_rel: float
    median_abs: float
    scale: float
    spread: float = 0.0
    about_mean: bool = False
    cosine: float | None
    agreement: float | None = None
    snr_db: float
    worst_feed: int
    worst_index: tuple[int, ...] = ()
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    tolerance: OutputTolerance
    passed: bool
    broken: tuple[Criterion, ...] = ()


class Comparison(Record):
    """One artifact against another.

    Attributes:
        artifact: its label (``lowered``, ``engine:sm89``).
        against: the other one's; ``pytorch`` for the outputs of the source itself.
        runner: the runtime and device it ran on.
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
        samples: how many were evaluated; 0 where a user-defined function does not say.
        lower_is_better: true for error rates.
        chance: what guessing gives; ``None`` where that is not known.
        scores: the score of every sample, where known.
        others: further metrics of a user-defined function, which no gate reads.
    """

    artifact: str
    runner: str
    metric: str
    value: FiniteFloat
    samples: int
    lower_is_better: bool = False
    chance: FiniteFloat | None = None
    scores: Scores | None = None
    others: dict[str, float] = {}

    def loss(self, reference: MetricValue) -> float:
        """By how much it is worse than ``reference``; negative where it is better."""
        return self.loss_from(reference.value)

    @property
    def guessed(self) -> bool:
        """Whether guessing gives as much, up to what is likely on so few samples (one-sided, 5 %)."""
        if self.chance is None:
            return False
        if self.lower_is_better or not 0 < self.chance < 1:
            return self.loss_from(self.chance) >= 0
        spread = math.sqrt(self.chance * (1 - self.chance) / max(self.samples, 1))
        return self.value <= self.chance + 1.645 * spread

    def loss_from(self, value: float) -> float:
        """By how much it is worse than ``value``; negative where it is better."""
        return self.value - value if self.lower_is_better else value - self.value

    def misses(self, limit: float) -> bool:
        """Whether it is below ``limit``; an error, above it."""
        return not self.loss_from(limit) <= 1e-12


class Overflow(Record):
    """A tensor that 16-bit storage turns into infinity.

    Attributes:
        node: the node that computes it.
        largest: its largest finite magnitude before storage.
    """

    tensor: str
    node: str
    largest: float


class ParityReport(Summarized, PublicRecord):
    """``parity.json``: the verdict on accuracy.

    Attributes:
        reference: label of the artifact all others are compared with.
        data: name of the data set; ``synthetic`` if the samples are random.
        inputs_digest, labels_digest: of the model's inputs as they were run, in whatever order, and of the labels that
            go with them; empty for none.
        preprocessing: how files became inputs; ``None`` if the data came as arrays.
        evaluation: the metric and the output it reads; empty for none. Metrics are comparable where it is equal.
        evaluation_digest: of a user-defined function and the files it read; empty for other metrics.
        samples, of_samples: how many samples outputs were compared on, and how many the data has.
        chosen: numbers of the samples, from 0, where they are not all of them.
        comparisons: of every artifact with the reference.
        links: of every artifact with the one it was made from, where that is not the reference; they locate the failing
            stage and enter no gate.
        pytorch: of every artifact with the outputs of the PyTorch source, on the samples the reference stage ran.
        metrics: the task metric of every artifact, where labels exist.
        max_drop: limit of how much worse than the reference's a metric may be.
        min_metric: metric -> the least value that every artifact's may have; of an error, the largest.
        digests: sha256 of every file that was run: the engine that is verified is the very file that ships.
        outputs_kept: feeds whose outputs ``outputs.json`` holds, to apply other tolerances to.
        not_run: engines that no device here can run, and why; and PyTorch's program where these are compiled from it.
        overflows: tensors that exceed the 16-bit range on this data, largest first.
        classes: names of the classes that labels are numbers of; empty where only the numbers are known.
        doubts: reasons to doubt the data or the metric; they fail nothing.
        reasons: one line for each reason of a failure.
        failing_stage: the first failing stage; empty if the verdict is "passed".
    """

    SCHEMA: ClassVar[int] = 4

    precision: Precision
    reference: str
    data: str
    data_digest: str
    inputs_digest: str = ""
    labels_digest: str = ""
    preprocessing: Preprocessing | None = None
    evaluation: str = ""
    evaluation_digest: str = ""
    synthetic: bool
    feeds: int
    samples: int
    of_samples: int = 0
    chosen: tuple[int, ...] = ()
    comparisons: tuple[Comparison, ...]
    links: tuple[Comparison, ...] = ()
    pytorch: tuple[Comparison, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    max_drop: float | None = None
    min_metric: dict[str, FiniteFloat] = {}
    digests: dict[str, str] = {}
    outputs_kept: int = 0
    not_run: dict[str, str] = {}
    overflows: tuple[Overflow, ...] = ()
    classes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    failing_stage: str = ""
    passed: bool

    @property
    def summary(self) -> Summary:
        """How many artifacts agree with the reference, and each output of them."""
        agreed = sum(each.passed for each in self.comparisons)
        rows = tuple(
            (each.artifact, output.output, "passed" if output.passed else "failed", f"{output.snr_db:.1f}")
            for each in self.comparisons
            for output in each.outputs
        )
        said = f"{agreed} of {len(self.comparisons)} artifacts agree with {self.reference} on {self.samples} samples"
        return Summary(said, ("artifact", "output", "", "SNR dB"), rows)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Outputs that differ, and have no limit: of integers and booleans, unless the profile gives one.

        Where a metric is measured, that judges.
        """
        outputs = () if self.metrics else (output for each in self.comparisons for output in each.outputs)
        names = [
            output.output
            for output in outputs
            if output.agreement is not None and output.tolerance.min_agreement is None and output.mean_abs > 0
        ]
        return tuple(dict.fromkeys(names))

    @property
    def extent(self) -> str:
        """How much of the data was compared, and why not all: for people."""
        if not self.chosen:
            return ""
        return f" of {self.of_samples}, evenly spread: no metric asks for all (accuracy.samples)"

    def number(self, sample: int) -> int:
        """The number in the data set of the sample that was compared as this one, both from 0."""
        return self.chosen[sample] if self.chosen else sample
