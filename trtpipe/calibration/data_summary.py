"""What data was used, in numbers: computed while it passes by."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Record
from trtpipe.config.recipe import ImageSettings
from trtpipe.data.bad_samples import Skipped
from trtpipe.data.input_checks import is_float
from trtpipe.data.sample import Sample
from trtpipe.digest import sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.artifact import Feed
    from trtpipe.data.sample import Dataset

#: Fewer samples than this rarely show the range of real data.
FEW_SAMPLES = 100


class InputAccount(Record):
    """What one input was fed: the extremes, the mean, and the share of zeros (0 to 1) over all values used.

    ``nonfinite`` is the share of NaN and infinity over all values offered: samples with one are never used.
    """

    minimum: float
    maximum: float
    mean: float
    zeros: float
    nonfinite: float = 0.0


class Settling(Record):
    """How far the ranges still moved while the last part of the data came in: at the 99.99th percentile.

    Attributes:
        since: samples seen at the point compared with: the last quarter began there, or a little earlier.
        moved: largest change of a range from there to the end, relative to the end.
        tensor: whose that is; empty without tensors.
        enough: samples after which no range moved by more than 2 % any more; beyond the samples used it is an
            estimate, by the square-root law of sampling error.
    """

    since: int
    moved: float
    tensor: str
    enough: int


class DataAccount(Record):
    """What data a result rests on.

    Attributes:
        source: what the data is, in words.
        samples: rows consumed.
        feeds: runs of the model.
        digest: content of the data: independent of paths, times and batch size.
        inputs: input name -> what it was fed.
        preprocessing: how files became tensors; ``None`` if the data came as tensors.
        seed: what the samples were chosen or made with; ``None`` if all were used.
        settling: how far the ranges still moved at the end; ``None`` for merged data and for very little.
        skipped: bad samples that were left out, as the user allowed.
        warnings: what makes the data doubtful.
    """

    source: str
    samples: int
    feeds: int
    digest: str
    inputs: dict[str, InputAccount]
    preprocessing: ImageSettings | None = None
    seed: int | None = None
    settling: Settling | None = None
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()


class Tally(Record):
    """Running numbers of one input. The sum is exact over rows, so batch size and order do not change the mean.

    Attributes:
        count, zeros: values seen, and how many were 0.
        minimum, maximum: of them; None before the first.
        total: their sum, as a fraction.
        floating: whether the input takes floats.
    """

    count: int = 0
    zeros: int = 0
    minimum: float | None = None
    maximum: float | None = None
    total: str = "0"
    floating: bool = False


class Progressed(Record):
    """An account half-way, as it rests between an interruption and the resumption."""

    samples: int
    feeds: int
    tallies: dict[str, Tally]


class AccountBuilder:
    """Keeps the account of a data set while a consumer walks through it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._tallies: dict[str, _Tally] = {}
        self.samples = 0
        self.feeds = 0

    def add(self, feed: Feed) -> None:
        """Take note of one feed."""
        self.samples += Sample(feed).rows
        self.feeds += 1
        for name, value in feed.items():
            self._tallies.setdefault(name, _Tally()).add(value)

    def save(self) -> Progressed:
        """What was noted so far."""
        tallies = {name: tally.save() for name, tally in self._tallies.items()}
        return Progressed(samples=self.samples, feeds=self.feeds, tallies=tallies)

    def restore(self, state: Progressed) -> None:
        """Go on from what was noted earlier."""
        self.samples, self.feeds = state.samples, state.feeds
        self._tallies = {name: _Tally(tally) for name, tally in state.tallies.items()}

    def finish(self, settling: Settling | None = None, skipped: tuple[Skipped, ...] = ()) -> DataAccount:
        """The account of all feeds added; asks the data set for its digest.

        Args:
            skipped: bad samples that were left out.
        """
        warnings = [*self._dataset.warnings]
        if skipped:
            lost = sum(each.rows for each in skipped)
            warnings.append(f"{lost} bad sample(s) were skipped, the first of them: {skipped[0].reason}")
        if self.samples < FEW_SAMPLES:
            warnings.append(f"only {self.samples} samples: ranges found on so few may not hold; use a few hundred")
        if settling is not None and settling.enough > self.samples:
            warnings.append(
                f"the range of {settling.tensor!r} still moved by {settling.moved:.1%} after sample {settling.since}: "
                f"about {settling.enough} samples would do"
            )
        for name, tally in self._tallies.items():
            warnings.extend(tally.warnings(name))
        return DataAccount(
            source=self._dataset.name,
            samples=self.samples,
            feeds=self.feeds,
            digest=self._dataset.digest(),
            inputs={name: tally.finish(_lost(name, skipped)) for name, tally in self._tallies.items() if tally.count},
            preprocessing=self._dataset.preprocessing,
            seed=self._dataset.seed,
            settling=settling,
            skipped=skipped,
            warnings=tuple(warnings),
        )


def combined(accounts: Iterable[DataAccount]) -> DataAccount | None:
    """One account for several data sets; ``None`` for none. A single one stays as it is.

    Extremes are exact; means and shares of zeros are weighted with the number of samples.
    """
    parts = list(accounts)
    if len(parts) < 2:
        return parts[0] if parts else None
    names = sorted({name for part in parts for name in part.inputs})
    return DataAccount(
        source=" + ".join(part.source for part in parts),
        samples=sum(part.samples for part in parts),
        feeds=sum(part.feeds for part in parts),
        digest=sha256_json(sorted(part.digest for part in parts)),
        inputs={name: _combined_input([part for part in parts if name in part.inputs], name) for name in names},
        skipped=tuple(each for part in parts for each in part.skipped),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
    )


def _combined_input(parts: list[DataAccount], name: str) -> InputAccount:
    inputs = [part.inputs[name] for part in parts]
    weights = [part.samples for part in parts]
    return InputAccount(
        minimum=min(part.minimum for part in inputs),
        maximum=max(part.maximum for part in inputs),
        mean=float(np.average([part.mean for part in inputs], weights=weights)),
        zeros=float(np.average([part.zeros for part in inputs], weights=weights)),
        nonfinite=float(np.average([part.nonfinite for part in inputs], weights=weights)),
    )


def _lost(name: str, skipped: tuple[Skipped, ...]) -> tuple[int, int]:
    mine = [each for each in skipped if each.input == name]
    return sum(each.nonfinite for each in mine), sum(each.values for each in mine)


class _Tally:
    """A Tally that grows."""

    def __init__(self, state: Tally | None = None) -> None:
        start = state or Tally()
        self.count = start.count
        self.zeros = start.zeros
        self.minimum = np.inf if start.minimum is None else start.minimum
        self.maximum = -np.inf if start.maximum is None else start.maximum
        self.sum = Fraction(start.total)
        self.floating = start.floating

    def save(self) -> Tally:
        return Tally(
            count=self.count,
            zeros=self.zeros,
            minimum=self.minimum if self.count else None,
            maximum=self.maximum if self.count else None,
            total=str(self.sum),
            floating=self.floating,
        )

    def add(self, value: np.ndarray) -> None:
        if not value.size:
            return
        self.count += value.size
        self.zeros += value.size - int(np.count_nonzero(value))
        self.minimum = min(self.minimum, float(value.min()))
        self.maximum = max(self.maximum, float(value.max()))
        self.floating = is_float(value.dtype)
        for row in value if value.ndim else value[np.newaxis]:
            self.sum += Fraction(float(np.asarray(row).astype(np.float64).sum()))

    def finish(self, lost: tuple[int, int]) -> InputAccount:
        """``lost``: how many values were NaN or infinite, of how many in samples that were left out for it."""
        nonfinite, values = lost
        return InputAccount(
            minimum=self.minimum,
            maximum=self.maximum,
            mean=float(self.sum / self.count),
            zeros=self.zeros / self.count,
            nonfinite=nonfinite / (self.count + values),
        )

    def warnings(self, name: str) -> list[str]:
        if self.count > 1 and self.minimum == self.maximum:
            return [f"input {name!r} is {self.minimum:g} everywhere"]
        if self.floating and self.minimum >= 0 and 100 < self.maximum <= 255:
            return [f"input {name!r} spans {self.minimum:g} to {self.maximum:g}: these look like pixels not normalized"]
        return []
