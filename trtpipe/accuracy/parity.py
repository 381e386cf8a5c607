"""Parity: every artifact's outputs against the reference's, feed by feed, through Polygraphy's Comparator.

Memory is bounded: outputs of a few feeds wait to be compared together and are then dropped; what remains are sums.
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
from trtpipe.imports import without
from trtpipe.progress import Progress, track

if TYPE_CHECKING:
    from polygraphy.comparator import OutputCompareResult

    from trtpipe.backends.base import Feed, Runner
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.profile import OutputTolerance, Precision, Tolerance


_CHUNK_FEEDS = 64
_CHUNK_ELEMENTS = 4_000_000


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
    """What is kept of one output's differences. Means are weighted by elements, so chunking does not change them."""

    is_float: bool
    elements: int = 0
    elements_passed: bool = True
    max_abs: float = 0.0
    max_rel: float = 0.0
    mean_abs: float = 0.0
    mean_rel: float = 0.0
    median_abs: float = 0.0
    cosine: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    scale: dict[str, float] = field(default_factory=lambda: {"max": 0.0, "mean": 0.0, "median": 0.0})

    def add(self, result: OutputCompareResult, cosine: float, mine: np.ndarray, theirs: np.ndarray) -> None:
        """Add one chunk's figures. NaN anywhere stays visible: it makes the sums NaN, and NaN never passes."""
        count = theirs.size
        if not count:
            return
        self.elements += count
        self.elements_passed &= bool(result)
        self.max_abs = _larger(self.max_abs, result.max_absdiff)
        self.max_rel = _larger(self.max_rel, result.max_reldiff)
        self.mean_abs += result.mean_absdiff * count
        self.mean_rel += result.mean_reldiff * count
        self.median_abs += result.median_absdiff * count
        self.cosine += cosine * count
        magnitude = np.abs(theirs, dtype=np.float64)
        self.scale["max"] = _larger(self.scale["max"], float(magnitude.max()))
        self.scale["mean"] += float(magnitude.sum())
        self.scale["median"] += float(np.median(magnitude)) * count
        with np.errstate(all="ignore"):
            difference = np.where(mine == theirs, 0.0, mine.astype(np.float64) - theirs)
            self.signal += float(np.square(magnitude).sum())
            self.noise += float(np.square(difference).sum())

    def result(self, name: str, tolerance: OutputTolerance, worst_feed: int) -> OutputParity:
        """The figures over all elements, and the verdict."""
        count = max(self.elements, 1)
        cosine = self.cosine / count if self.elements else 1.0
        return OutputParity(
            output=name,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            mean_abs=self.mean_abs / count,
            mean_rel=self.mean_rel / count,
            median_abs=self.median_abs / count,
            scale=self.scale["mean"] / count,
            cosine=cosine if self.is_float else None,
            snr_db=_decibel(self.signal, self.noise),
            worst_feed=worst_feed,
            tolerance=tolerance,
            passed=self._close(tolerance, count) and self._aligned(tolerance, cosine) and not math.isnan(self.max_abs),
        )

    def _close(self, tolerance: OutputTolerance, count: int) -> bool:
        errors = {"max": self.max_abs, "mean": self.mean_abs / count, "median": self.median_abs / count}
        if tolerance.stat not in errors:
            return self.elements_passed
        scale = self.scale[tolerance.stat] / (1 if tolerance.stat == "max" else count)
        return errors[tolerance.stat] <= (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * scale

    def _aligned(self, tolerance: OutputTolerance, cosine: float) -> bool:
        return not self.is_float or tolerance.min_cosine is None or cosine >= tolerance.min_cosine


def _larger(a: float, b: float) -> float:
    """The larger one; NaN wins, because NaN must stay visible."""
    return b if _exceeds(b, a) else a


def _exceeds(a: float, b: float) -> bool:
    """Whether ``a`` is larger than ``b``; NaN is larger than any number."""
    return not math.isnan(b) and not a <= b


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


class _Entrant:
    """A contender with its sums, and the outputs that wait to be compared.

    Polygraphy takes milliseconds a comparison whatever its size, so outputs are compared in chunks of feeds.
    """

    def __init__(self, contender: Contender, tolerance: Tolerance) -> None:
        self.contender = contender
        self._tolerance = tolerance
        self._sums: dict[str, _Sums] = {}
        self._worst: dict[str, tuple[float, int]] = {}
        self._waiting: list[tuple[Feed, Feed]] = []
        self._elements = 0

    def add(self, found: Feed, wanted: Feed, feed: int) -> None:
        """Take one feed's outputs."""
        mine, theirs = _comparable(found, wanted)
        for name, value in wanted.items():
            self._sums.setdefault(name, _Sums(is_float=value.dtype.kind not in "biu"))
            with np.errstate(invalid="ignore"):
                gaps = np.where(mine[name] == theirs[name], 0.0, np.abs(mine[name] - theirs[name]))
            gap = float(gaps.max(initial=0.0))
            if name not in self._worst or _exceeds(gap, self._worst[name][0]):
                self._worst[name] = (gap, feed)
        self._waiting.append((mine, theirs))
        self._elements += sum(value.size for value in theirs.values())
        if len(self._waiting) >= _CHUNK_FEEDS or self._elements >= _CHUNK_ELEMENTS:
            self.flush()

    def flush(self) -> None:
        """Compare what waits."""
        if not self._waiting:
            return
        mine = {name: np.concatenate([found[name] for found, _ in self._waiting]) for name in self._sums}
        theirs = {name: np.concatenate([wanted[name] for _, wanted in self._waiting]) for name in self._sums}
        self._waiting, self._elements = [], 0
        rules = {name: self._tolerance.for_output(name, self.contender.precision) for name in theirs}
        for name, (result, cosine) in _compared(mine, theirs, rules).items():
            self._sums[name].add(result, cosine, mine[name], theirs[name])

    def comparison(self) -> Comparison:
        """The figures of all outputs."""
        self.flush()
        return Comparison(
            artifact=self.contender.label,
            runner=self.contender.device,
            outputs=tuple(
                self._judged(
                    sums.result(name, self._tolerance.for_output(name, self.contender.precision), self._worst[name][1]),
                    sums,
                )
                for name, sums in self._sums.items()
            ),
        )

    def _judged(self, output: OutputParity, sums: _Sums) -> OutputParity:
        """Integer outputs of a lowered graph are judged only by a tolerance of their own.

        Indices of equally good candidates change places at the slightest rounding: no general bound would be right.
        """
        lowered = self.contender.precision != "fp32"
        if sums.is_float or not lowered or output.output in self._tolerance.outputs:
            return output
        return output.model_copy(update={"passed": True})


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
        dataset: the samples; the metric is measured on those with labels.
        tolerance: the profile's; each contender's precision fills the gaps.
        metric: (name, output) of the task metric, or ``None``.

    Raises:
        InputError: a runner refuses a feed, or the metric does not fit the outputs.
    """
    entrants = [_Entrant(contender, tolerance) for contender in others]
    meters = {c.label: TopK(*metric) for c in (reference, *(e.contender for e in entrants))} if metric else {}
    feeds = samples = 0
    for sample in track(progress, "verify", dataset, dataset.size):
        wanted = reference.runner.infer(sample.feed)
        _measure(meters, reference.label, wanted, sample.labels)
        for entrant in entrants:
            found = entrant.contender.runner.infer(sample.feed)
            _measure(meters, entrant.contender.label, found, sample.labels)
            entrant.add(found, wanted, feeds)
        feeds += 1
        samples += sample.rows
    comparisons = tuple(entrant.comparison() for entrant in entrants)
    devices = {c.label: c.device for c in (reference, *(e.contender for e in entrants))}
    metrics = tuple(
        MetricValue(
            artifact=label, runner=devices[label], metric=meter.metric, value=meter.value, samples=meter.samples
        )
        for label, meter in meters.items()
        if meter.samples  # without a label nothing was measured
    )
    return ParityRun(comparisons, metrics, feeds, samples)


def _measure(meters: Mapping[str, TopK], label: str, outputs: Feed, labels: np.ndarray | None) -> None:
    if label in meters and labels is not None:
        meters[label].update(outputs, labels)


@without("torch")
def _compared(
    mine: Feed, theirs: Feed, rules: Mapping[str, OutputTolerance]
) -> dict[str, tuple[OutputCompareResult, float]]:
    """Polygraphy's figures for one chunk: differences, and cosine similarity, for every output."""
    from polygraphy.comparator import (
        Comparator,
        CosineSimilarityCompareFunc,
        IterationResult,
        RunResults,
        SimpleCompareFunc,
    )
    from polygraphy.logger import G_LOGGER

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
    return {name: (simple[name], float(cosine[name].cosine_similarity)) for name in theirs}


def _comparable(found: Feed, wanted: Feed) -> tuple[Feed, Feed]:
    """Outputs as Polygraphy should see them: flat, and integers and booleans as "differs" (1) or "equal" (0).

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
            mine[name], theirs[name] = (other != value).ravel().astype(np.float32), np.zeros(value.size, np.float32)
        else:
            mine[name], theirs[name] = other.ravel().astype(np.float32), value.ravel().astype(np.float32)
    return mine, theirs
