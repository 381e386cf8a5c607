"""Parity: every artifact's outputs against the reference's, feed by feed, through Polygraphy's Comparator.

Memory is bounded: one feed's outputs are compared and dropped before the next feed runs; what remains are sums.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.metrics import TopK
from trtpipe.accuracy.reports import Comparison, MetricValue, OutputParity
from trtpipe.errors import StageError
from trtpipe.progress import Progress, track

if TYPE_CHECKING:
    from polygraphy.comparator import OutputCompareResult

    from trtpipe.backends.base import Feed, Runner
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.profile import OutputTolerance, Precision, Tolerance


@dataclass(frozen=True)
class Contender:
    """An artifact that is compared with the reference.

    Attributes:
        label: the artifact's.
        runner: opened.
        precision: decides the tolerance.
        note: what the runner's device does not say (``bfloat16 storage emulated``).
    """

    label: str
    runner: Runner
    precision: Precision
    note: str = ""

    @property
    def device(self) -> str:
        """Where it runs, with the note."""
        return f"{self.runner.device}, {self.note}" if self.note else self.runner.device


@dataclass
class _Sums:
    """What is kept of one output's differences."""

    is_float: bool
    feeds: int = 0
    elements_passed: bool = True
    max_abs: float = 0.0
    max_rel: float = 0.0
    mean_abs: float = 0.0
    mean_rel: float = 0.0
    median_abs: float = 0.0
    median_rel: float = 0.0
    cosine: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    worst_feed: int = 0

    def add(self, result: OutputCompareResult, cosine: float, mine: np.ndarray, theirs: np.ndarray, feed: int) -> None:
        """Add one feed's figures. NaN anywhere stays visible: it makes the sums NaN, and NaN never passes."""
        self.feeds += 1
        if not mine.size:
            self.cosine += 1.0
            return
        self.elements_passed &= bool(result)
        if not result.max_absdiff <= self.max_abs:
            self.max_abs, self.worst_feed = result.max_absdiff, feed
        self.max_rel = max(self.max_rel, result.max_reldiff)
        self.mean_abs += result.mean_absdiff
        self.mean_rel += result.mean_reldiff
        self.median_abs += result.median_absdiff
        self.median_rel += result.median_reldiff
        self.cosine += cosine
        with np.errstate(all="ignore"):
            difference = np.where(mine == theirs, 0.0, mine.astype(np.float64) - theirs)
            self.signal += float(np.square(theirs, dtype=np.float64).sum())
            self.noise += float(np.square(difference).sum())

    def result(self, name: str, tolerance: OutputTolerance) -> OutputParity:
        """The figures averaged over feeds, and the verdict."""
        count = max(self.feeds, 1)
        cosine = self.cosine / count
        stats = {
            "max": (self.max_abs, self.max_rel),
            "mean": (self.mean_abs / count, self.mean_rel / count),
            "median": (self.median_abs / count, self.median_rel / count),
        }
        if tolerance.stat in stats:
            absolute, relative = stats[tolerance.stat]
            close = absolute <= (tolerance.atol or 0.0) or relative <= (tolerance.rtol or 0.0)
        else:
            close = self.elements_passed
        aligned = not self.is_float or tolerance.min_cosine is None or cosine >= tolerance.min_cosine
        return OutputParity(
            output=name,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            mean_abs=self.mean_abs / count,
            mean_rel=self.mean_rel / count,
            median_abs=self.median_abs / count,
            cosine=cosine if self.is_float else None,
            snr_db=_decibel(self.signal, self.noise),
            worst_feed=self.worst_feed,
            tolerance=tolerance,
            passed=close and aligned and not math.isnan(self.max_abs),
        )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    return 10 * math.log10(signal / noise) if signal else -math.inf


@dataclass(frozen=True)
class ParityRun:
    """The result of one pass over the data."""

    comparisons: tuple[Comparison, ...]
    metrics: tuple[MetricValue, ...]
    feeds: int
    samples: int


@dataclass
class _Entrant:
    contender: Contender
    sums: dict[str, _Sums] = field(default_factory=dict)


def compare(
    reference: Contender,
    others: Iterable[Contender],
    dataset: Dataset,
    tolerance: Tolerance,
    metric: tuple[str, str] | None,
    progress: Progress,
) -> ParityRun:
    """Run every contender on every feed and compare its outputs with the reference's.

    Args:
        reference: what is right by definition.
        others: who is judged.
        dataset: the samples; labels are needed where ``metric`` is given.
        tolerance: the profile's; each contender's precision fills the gaps.
        metric: (name, output) of the task metric, or ``None``.

    Raises:
        InputError: a runner refuses a feed, or the metric does not fit the outputs.
    """
    entrants = [_Entrant(contender) for contender in others]
    meters = {c.label: TopK(*metric) for c in (reference, *(e.contender for e in entrants))} if metric else {}
    feeds = samples = 0
    for sample in track(progress, "verify", dataset, dataset.size):
        wanted = reference.runner.infer(sample.feed)
        _measure(meters, reference.label, wanted, sample.labels)
        for entrant in entrants:
            found = entrant.contender.runner.infer(sample.feed)
            _measure(meters, entrant.contender.label, found, sample.labels)
            _accumulate(entrant, wanted, found, tolerance, feeds)
        feeds += 1
        samples += sample.rows
    comparisons = tuple(_comparison(entrant, tolerance) for entrant in entrants)
    devices = {c.label: c.device for c in (reference, *(e.contender for e in entrants))}
    metrics = tuple(
        MetricValue(
            artifact=label, runner=devices[label], metric=meter.metric, value=meter.value, samples=meter.samples
        )
        for label, meter in meters.items()
    )
    return ParityRun(comparisons, metrics, feeds, samples)


def _measure(meters: Mapping[str, TopK], label: str, outputs: Feed, labels: np.ndarray | None) -> None:
    if label in meters and labels is not None:
        meters[label].update(outputs, labels)


def _accumulate(entrant: _Entrant, wanted: Feed, found: Feed, tolerance: Tolerance, feed: int) -> None:
    """Compare one feed's outputs by Polygraphy and add the figures up."""
    from polygraphy.comparator import (
        Comparator,
        CosineSimilarityCompareFunc,
        IterationResult,
        RunResults,
        SimpleCompareFunc,
    )
    from polygraphy.logger import G_LOGGER

    rules = {name: tolerance.for_output(name, entrant.contender.precision) for name in wanted}
    mine, theirs = _comparable(found, wanted)
    results = RunResults()
    for name, outputs in (("found", mine), ("wanted", theirs)):
        results.append((name, [IterationResult(outputs, runtime=0.0, runner_name=name)]))
    differences = SimpleCompareFunc(
        atol={name: rule.atol for name, rule in rules.items()},
        rtol={name: rule.rtol for name, rule in rules.items()},
        check_error_stat={name: rule.stat for name, rule in rules.items()},
        infinities_compare_equal=True,
    )
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, on empty or infinite outputs; the figures themselves tell
        by_function = Comparator.compare_accuracy(results, compare_func=[differences, CosineSimilarityCompareFunc()])
    simple, cosine = (next(iter(result.values()))[0] for result in by_function)
    for name in wanted:
        sums = entrant.sums.setdefault(name, _Sums(is_float=wanted[name].dtype.kind not in "biu"))
        sums.add(simple[name], float(cosine[name].cosine_similarity), mine[name], theirs[name], feed)


def _comparable(found: Feed, wanted: Feed) -> tuple[Feed, Feed]:
    """Outputs as Polygraphy should see them: integers and booleans become "differs" (1) or "equal" (0).

    The distance between two class indices means nothing; the share that differs does.
    """
    mine, theirs = {}, {}
    for name, value in wanted.items():
        other = found[name]
        if other.shape != value.shape:
            raise StageError(
                f"output {name!r} has shape {list(other.shape)}, the reference's has {list(value.shape)}",
                "an output whose shape depends on the data cannot be compared; leave it out of the model",
            )
        if value.dtype.kind in "biu":
            mine[name], theirs[name] = (other != value).astype(np.float32), np.zeros(value.shape, np.float32)
        else:
            mine[name], theirs[name] = other.astype(np.float32), value.astype(np.float32)
    return mine, theirs


def _comparison(entrant: _Entrant, tolerance: Tolerance) -> Comparison:
    contender = entrant.contender
    return Comparison(
        artifact=contender.label,
        runner=contender.device,
        outputs=tuple(
            sums.result(name, tolerance.for_output(name, contender.precision)) for name, sums in entrant.sums.items()
        ),
    )
