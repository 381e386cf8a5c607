"""Parity: every artifact's outputs against the reference's and against those of the artifact it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtpipe.accuracy.comparing import Pair
from trtpipe.accuracy.reports import Comparison, MetricValue
from trtpipe.progress import Progress, track

if TYPE_CHECKING:
    import numpy as np

    from trtpipe.accuracy.metrics import Meter
    from trtpipe.accuracy.recording import Recording
    from trtpipe.artifact import Feed
    from trtpipe.backends.base import Runner
    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import Tolerance
    from trtpipe.data.sample import Sample


class Samples(Protocol):
    """Samples to run on: a Dataset, or a few in memory."""

    @property
    def size(self) -> int | None:
        """Number of feeds, where it is known in advance."""

    def __iter__(self) -> Iterator[Sample]: ...


@dataclass(frozen=True)
class Contender:
    """An artifact that is compared with the reference.

    Attributes:
        label: the artifact's.
        runner: opened.
        precision: decides the tolerance.
        note: what the runner's device does not say (``bfloat16 storage emulated``).
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
    """

    comparisons: tuple[Comparison, ...]
    links: tuple[Comparison, ...]
    metrics: tuple[MetricValue, ...]
    feeds: int
    samples: int


@dataclass(frozen=True)
class _Match:
    """Who is compared with whom."""

    contender: Contender
    against: str
    pair: Pair

    def comparison(self) -> Comparison:
        return Comparison(
            artifact=self.contender.label,
            against=self.against,
            runner=self.contender.device,
            outputs=self.pair.results(),
        )


def compare(
    reference: Contender,
    others: Iterable[Contender],
    dataset: Samples,
    tolerance: Tolerance,
    meter: Callable[[], Meter] | None,
    progress: Progress,
    recording: Recording | None = None,
) -> ParityRun:
    """Run every contender on every feed and compare its outputs.

    Args:
        reference: what is right by definition.
        others: who is judged, each after the one it was made from.
        dataset: the samples; the metric is measured on those with labels.
        tolerance: the profile's; each contender's precision fills the gaps.
        meter: makes a meter for each contender; ``None`` for no metric.
        recording: keeps outputs, so that they can be judged again.

    Raises:
        InputError: a runner refuses a feed, or the metric does not fit the outputs.
        StageError: outputs differ in shape.
    """
    contenders = tuple(others)
    everyone = (reference, *contenders)
    whole = [_match(contender, reference.label, tolerance) for contender in contenders]
    links = [
        _match(contender, contender.before, tolerance)
        for contender in contenders
        if contender.before not in ("", reference.label)
    ]
    meters = {contender.label: meter() for contender in everyone} if meter else {}
    feeds = samples = 0
    for sample in track(progress, "verify", dataset, dataset.size):
        found = {contender.label: contender.runner.infer(sample.feed) for contender in everyone}
        for match in (*whole, *links):
            match.pair.add(found[match.contender.label], found[match.against])
        for label, each in meters.items():
            _measure(each, found[label], found[reference.label], sample.labels)
        if recording is not None:
            recording.add(found)
        feeds += 1
        samples += sample.rows
    return ParityRun(
        comparisons=tuple(match.comparison() for match in whole),
        links=tuple(match.comparison() for match in links),
        metrics=_values(meters, {contender.label: contender.device for contender in everyone}),
        feeds=feeds,
        samples=samples,
    )


def _match(contender: Contender, against: str, tolerance: Tolerance) -> _Match:
    return _Match(contender, against, Pair(tolerance, contender.precision))


def _measure(meter: Meter, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
    if labels is not None or not meter.needs_labels:
        meter.update(outputs, wanted, labels)


def _values(meters: Mapping[str, Meter], devices: Mapping[str, str]) -> tuple[MetricValue, ...]:
    """The metric of every contender; none where not a single sample had a label."""
    return tuple(
        MetricValue(
            artifact=label,
            runner=devices[label],
            metric=meter.metric,
            value=scores.value,
            samples=scores.samples,
            lower_is_better=meter.lower_is_better,
            scores=scores,
        )
        for label, meter in meters.items()
        if (scores := meter.scores()).samples
    )
