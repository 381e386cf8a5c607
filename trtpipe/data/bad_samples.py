"""Bad samples stop the iteration, unless some may be skipped; then they are recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.data.sample import Skipped
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from trtpipe.data.sample import Sample


class NonFiniteInput(InputError):
    """An input holds NaN or infinity; its attributes are those of ``Skipped``."""

    def __init__(self, message: str, remedy: str, name: str = "", nonfinite: int = 0, values: int = 0) -> None:
        super().__init__(message, remedy)
        self.input = name
        self.nonfinite = nonfinite
        self.values = values


@dataclass(frozen=True)
class BadSample:
    """What a source yields in place of a sample that cannot be used."""

    index: int
    error: InputError

    def skipped(self, rows: int = 1) -> Skipped:
        """The record of the sample as skipped."""
        error = self.error
        found = Skipped(index=self.index, reason=error.message, rows=rows)
        if not isinstance(error, NonFiniteInput):
            return found
        return found.model_copy(update={"input": error.input, "nonfinite": error.nonfinite, "values": error.values})


def try_sample(index: int, make: Callable[[], Sample]) -> Sample | BadSample:
    """The sample, or what is wrong with it."""
    try:
        return make()
    except InputError as error:
        return BadSample(index, error)


def good_samples(items: Iterable[Sample | BadSample], max_bad_samples: int, skipped: list[Skipped]) -> Iterator[Sample]:
    """The good samples of ``items``; up to ``max_bad_samples`` bad ones are added to ``skipped``.

    Raises:
        InputError: too many bad samples; the message has the index and the name of the last one.
    """
    for item in items:
        if isinstance(item, BadSample):
            skip_bad_sample(item, max_bad_samples, skipped)
        else:
            yield item


def skip_bad_sample(
    bad: BadSample, max_bad_samples: int, skipped: list[Skipped], before: int = 0, rows: int = 1
) -> None:
    """Add a bad sample to ``skipped``, or stop.

    Args:
        before: samples skipped elsewhere.
        rows: samples that are lost with this one.

    Raises:
        InputError: more than ``max_bad_samples`` samples would be lost.
    """
    if before + sum(each.rows for each in skipped) + rows > max_bad_samples:
        more = f"{max_bad_samples} bad samples were skipped already; " if max_bad_samples else ""
        raise InputError(
            f"{bad.error.message} (sample {bad.index})",
            f"{more}{bad.error.remedy}; or skip up to N bad samples with --skip-bad-samples N",
        ) from bad.error
    skipped.append(bad.skipped(rows))
