"""A summary of the data that was used: computed in one pass, in constant memory."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Record
from trtpipe.config.recipe import Preprocessing
from trtpipe.data.input_checks import are_pixels, is_float
from trtpipe.data.sample import Sample, Skipped
from trtpipe.digest import sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.artifact import Feed
    from trtpipe.data.sample import Dataset

#: Fewer samples than this rarely show the range of real data.
FEW_SAMPLES = 100
#: An estimate of the samples needed is no better than this many times those seen.
MOST_NEEDED = 100


class InputSummary(Record):
    """The values of one input: the extremes, the mean, and the fraction of zeros (0 to 1) over all values used.

    ``nonfinite`` is the fraction of NaN and infinity over all values read: samples with one are never used.
    """

    minimum: float
    maximum: float
    mean: float
    zeros: float
    nonfinite: float = 0.0


class Convergence(Record):
    """How much the ranges (99.99th percentile) changed over the last part of the data.

    Attributes:
        since: samples seen at the point of comparison: at most three quarters of all.
        change: largest change of a range from there to the end, relative to the end.
        tensor: the tensor with that change.
        samples_needed: samples after which no range changed by more than 2 %; beyond the samples used it is a rough
            estimate, by the square-root law of sampling error, and ``MOST_NEEDED`` times these at most.
    """

    since: int
    change: float
    tensor: str
    samples_needed: int


class DataSummary(Record):
    """The data a result is based on.

    Attributes:
        source: what the data is, in words.
        samples: rows used.
        feeds: runs of the model.
        digest: content of the data: independent of paths, times and batch size.
        inputs: input name -> its values.
        preprocessing: how files became tensors; ``None`` if the data came as tensors.
        seed: what the samples were chosen or made with; ``None`` if all were used.
        convergence: of the ranges; ``None`` for merged data and for very few samples.
        skipped: bad samples that were skipped, as the user allowed.
        warnings: reasons to doubt the data, by its content alone: what the data set says of the samples asked for,
            which is in no key, is not among them.
    """

    source: str
    samples: int
    feeds: int
    digest: str
    inputs: dict[str, InputSummary]
    preprocessing: Preprocessing | None = None
    seed: int | None = None
    convergence: Convergence | None = None
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()


class InputTotals(Record):
    """Totals of one input so far. The sum is exact over rows, so batch size and order do not change the mean.

    Attributes:
        count, zeros: number of values, and of zeros among them.
        minimum, maximum: of the values; ``None`` before the first.
        total: their sum, as a fraction.
        floating: whether the input takes floats.
    """

    count: int = 0
    zeros: int = 0
    minimum: float | None = None
    maximum: float | None = None
    total: str = "0"
    floating: bool = False

    def with_values(self, value: np.ndarray) -> InputTotals:
        """The totals with the values of one more feed."""
        if not value.size:
            return self
        low, high = float(value.min()), float(value.max())
        rows = value if value.ndim else value[np.newaxis]
        sums = (Fraction(float(np.asarray(row).astype(np.float64).sum())) for row in rows)
        return InputTotals(
            count=self.count + value.size,
            zeros=self.zeros + value.size - int(np.count_nonzero(value)),
            minimum=low if self.minimum is None else min(self.minimum, low),
            maximum=high if self.maximum is None else max(self.maximum, high),
            total=str(sum(sums, Fraction(self.total))),
            floating=is_float(value.dtype),
        )

    def summary(self, skipped: list[Skipped]) -> InputSummary | None:
        """The summary, with the NaN and infinities of the samples ``skipped``; ``None`` before the first value."""
        if self.minimum is None or self.maximum is None:
            return None
        return InputSummary(
            minimum=self.minimum,
            maximum=self.maximum,
            mean=float(Fraction(self.total) / self.count),
            zeros=self.zeros / self.count,
            nonfinite=sum(each.nonfinite for each in skipped) / (self.count + sum(each.values for each in skipped)),
        )

    def warnings(self, name: str) -> list[str]:
        """Reasons to doubt the values of the input ``name``."""
        if self.minimum is None or self.maximum is None:
            return []
        if self.count > 1 and self.minimum == self.maximum:
            return [f"input {name!r} is {self.minimum:g} everywhere"]
        if self.floating and are_pixels(self.minimum, self.maximum):
            return [f"input {name!r} spans {self.minimum:g} to {self.maximum:g}: these look like pixels not normalized"]
        return []


class SummaryState(Record):
    """A summary in progress, as a checkpoint holds it."""

    samples: int = 0
    feeds: int = 0
    inputs: dict[str, InputTotals] = {}


class DataSummaryBuilder:
    """Builds the summary of a data set, feed by feed."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.state = SummaryState()

    @property
    def samples(self) -> int:
        """Rows added so far."""
        return self.state.samples

    def add(self, feed: Feed) -> None:
        """Add one feed."""
        totals = {name: self.state.inputs.get(name, InputTotals()).with_values(value) for name, value in feed.items()}
        self.state = SummaryState(
            samples=self.state.samples + Sample(feed).rows,
            feeds=self.state.feeds + 1,
            inputs={**self.state.inputs, **totals},
        )

    def finish(self, convergence: Convergence | None = None, skipped: tuple[Skipped, ...] = ()) -> DataSummary:
        """The summary of all feeds added; computes the digest of the data set.

        Args:
            convergence: of the ranges.
            skipped: bad samples that were skipped.
        """
        samples, inputs = self.state.samples, self.state.inputs
        warnings = []
        if skipped:
            rows = sum(each.rows for each in skipped)
            warnings.append(f"{rows} bad sample(s) were skipped, the first of them: {skipped[0].reason}")
        if samples < FEW_SAMPLES:
            few = f"{samples} sample{'s' * (samples != 1)}"
            warnings.append(f"only {few}: ranges from so few may not hold; use a few hundred")
        if convergence is not None and convergence.samples_needed > samples:
            capped = convergence.samples_needed >= MOST_NEEDED * samples
            how_many = (
                "how many is not known" if capped else f"roughly {convergence.samples_needed}, by the square root law"
            )
            warnings.append(
                f"range not converged: that of {convergence.tensor!r} changed by {convergence.change:.1%} "
                f"after sample {convergence.since} of {samples}; use more samples ({how_many})"
            )
        for name, totals in inputs.items():
            warnings.extend(totals.warnings(name))
        found = {n: totals.summary([each for each in skipped if each.input == n]) for n, totals in inputs.items()}
        return DataSummary(
            source=self._dataset.name,
            samples=samples,
            feeds=self.state.feeds,
            digest=self._dataset.digests().inputs,
            inputs={name: summary for name, summary in found.items() if summary is not None},
            preprocessing=self._dataset.preprocessing,
            seed=self._dataset.seed,
            convergence=convergence,
            skipped=skipped,
            warnings=tuple(warnings),
        )


def combined(summaries: Iterable[DataSummary]) -> DataSummary | None:
    """One summary for several data sets; ``None`` for none. A single one stays as it is.

    Extremes are exact; means and fractions are weighted with the number of samples.
    """
    parts = list(summaries)
    if len(parts) < 2:
        return parts[0] if parts else None
    names = sorted({name for part in parts for name in part.inputs})
    return DataSummary(
        source=" + ".join(part.source for part in parts),
        samples=sum(part.samples for part in parts),
        feeds=sum(part.feeds for part in parts),
        digest=sha256_json(sorted(part.digest for part in parts)),
        inputs={name: _combined_input([part for part in parts if name in part.inputs], name) for name in names},
        skipped=tuple(each for part in parts for each in part.skipped),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
    )


def _combined_input(parts: list[DataSummary], name: str) -> InputSummary:
    inputs = [part.inputs[name] for part in parts]
    weights = [part.samples for part in parts]
    return InputSummary(
        minimum=min(part.minimum for part in inputs),
        maximum=max(part.maximum for part in inputs),
        mean=float(np.average([part.mean for part in inputs], weights=weights)),
        zeros=float(np.average([part.zeros for part in inputs], weights=weights)),
        nonfinite=float(np.average([part.nonfinite for part in inputs], weights=weights)),
    )
