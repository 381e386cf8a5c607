"""Parity: every artifact's outputs against the reference's and against those of the artifact it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.accuracy.metrics import meter_value
from trtpipe.accuracy.reports import Comparison, MetricValue
from trtpipe.data.input_checks import is_float
from trtpipe.data.sample import RowContents

if TYPE_CHECKING:
    from trtpipe.accuracy.meter import Meter
    from trtpipe.artifact import Feed
    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import Tolerance
    from trtpipe.data.sample import Sample
    from trtpipe.isolation.reducer import Runner
    from trtpipe.progress import Progress


class Samples(Protocol):
    """Samples to run on: a Dataset, or a few in memory."""

    @property
    def size(self) -> int | None:
        """Number of feeds, where it is known once the first of them was read."""

    def __iter__(self) -> Iterator[Sample]: ...


class OutputRecorder(Protocol):
    """Keeps outputs of a parity run."""

    def add(self, outputs: Mapping[str, Feed], feed: Feed) -> None:
        """Take one feed, and its outputs: artifact -> output name -> array."""


@dataclass(frozen=True)
class Contender:
    """An artifact that is compared with the reference.

    Attributes:
        label: the artifact's.
        runner: opened.
        precision: decides the tolerance.
        note: added to the device's name (``bfloat16 storage emulated``).
        before: label of the contender it was made from; empty for the reference.
    """

    label: str
    runner: Runner
    precision: Precision
    note: str = ""
    before: str = ""

    @property
    def device(self) -> str:
        """Where it runs, with the note."""
        return f"{self.runner.device}, {self.note}" if self.note else self.runner.device


@dataclass(frozen=True)
class ParityRun:
    """The result of one pass over the data.

    Attributes:
        comparisons: of every contender with the reference.
        links: of every contender with the one it was made from, where that is not the reference.
        extremes: of every float input.
        hints: what explains outputs that are not within tolerance, and why outputs or the metric say little.
        inputs_digest, labels_digest: of what was run, in whatever order, and of the labels that go with it; the latter
            is empty where there are none.
        empty: whether no output has a value that counts on any sample, so that nothing was compared.
    """

    comparisons: tuple[Comparison, ...]
    links: tuple[Comparison, ...]
    metrics: tuple[MetricValue, ...]
    feeds: int
    samples: int
    extremes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    inputs_digest: str = ""
    labels_digest: str = ""
    empty: bool = False


@dataclass(frozen=True)
class _Match:
    """Two artifacts whose outputs are compared."""

    contender: Contender
    against: str
    outputs: OutputComparison

    def comparison(self) -> Comparison:
        return Comparison(
            artifact=self.contender.label,
            against=self.against,
            runner=self.contender.device,
            outputs=self.outputs.results(),
        )


def compare(
    reference: Contender,
    others: Iterable[Contender],
    dataset: Samples,
    tolerance: Tolerance,
    make_meter: Callable[[], Meter] | None,
    progress: Progress,
    recorder: OutputRecorder | None = None,
    *,
    real: bool = True,
) -> ParityRun:
    """Run every contender on every feed and compare its outputs.

    Args:
        reference: the artifact all others are compared with.
        others: the artifacts to check, each after the one it was made from.
        dataset: the samples; the metric is measured on those with labels.
        tolerance: the profile's; each contender's precision fills the gaps.
        make_meter: makes a meter for each contender; ``None`` for no metric.
        recorder: keeps outputs, so that other tolerances can be applied later.
        real: whether the samples are, and not random.

    Raises:
        InputError: a runner refuses a feed, or the metric does not fit the outputs.
        StageError: outputs differ in shape.
    """
    contenders = tuple(others)
    everyone = (reference, *contenders)

    def pair(contender: Contender, against: str) -> _Match:
        return _Match(contender, against, OutputComparison(tolerance, contender.precision, real=real))

    whole = [pair(each, reference.label) for each in contenders]
    links = [pair(each, each.before) for each in contenders if each.before not in ("", reference.label)]
    meters = {contender.label: make_meter() for contender in everyone} if make_meter else {}
    devices = {contender.label: contender.device for contender in everyone}
    content = RowContents()
    extremes: dict[str, tuple[float, float]] = {}
    feeds = samples = 0
    for sample in dataset:
        progress.advance("verify", feeds, dataset.size)
        found = {contender.label: contender.runner.infer(sample.feed) for contender in everyone}
        for match in (*whole, *links):
            match.outputs.add(found[match.contender.label], found[match.against], sample.feed)
        for label, each in meters.items():
            if sample.labels is not None or not each.needs_labels:
                each.update(found[label], found[reference.label], sample.labels)
        if recorder is not None:
            recorder.add(found, sample.feed)
        content.add(sample)
        for name, value in sample.feed.items():
            if value.size and is_float(value.dtype):
                low, high = extremes.get(name, (math.inf, -math.inf))
                extremes[name] = min(low, float(value.min())), max(high, float(value.max()))
        feeds += 1
        samples += sample.rows
    progress.advance("verify", feeds, feeds)
    metrics = (meter_value(label, devices[label], each) for label, each in meters.items())
    doubts = [
        f"{reference.label}: {each.doubt}" for label, each in meters.items() if label == reference.label and each.doubt
    ]
    return ParityRun(
        comparisons=tuple(match.comparison() for match in whole),
        links=tuple(match.comparison() for match in links),
        metrics=tuple(value for value in metrics if value.samples),
        feeds=feeds,
        samples=samples,
        extremes=extremes,
        hints=(*dict.fromkeys(hint for match in whole for hint in match.outputs.hints), *doubts),
        inputs_digest=content.inputs,
        labels_digest=content.labels,
        empty=bool(whole) and all(match.outputs.empty for match in whole),
    )
