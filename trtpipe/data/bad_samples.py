"""Bad samples: they stop the walk through the data, unless a few may be skipped; then they are remembered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from trtpipe.data.sample import Sample


class Skipped(Record):
    """A sample that was left out.

    Attributes:
        index: its position among the chosen samples, from 0; of the first row, where a whole batch failed.
        reason: what is wrong with it; names the file, row or sample.
        input, nonfinite, values: where an input held NaN or infinity: its name, how often, and of how many values.
        rows: samples lost with it.
    """

    index: int
    reason: str
    input: str = ""
    nonfinite: int = 0
    values: int = 0
    rows: int = 1


class NonFiniteInput(InputError):
    """An input holds NaN or infinity.

    Attributes:
        input: its name.
        nonfinite, values: how many, and of how many.
    """

    def __init__(self, message: str, remedy: str, name: str = "", nonfinite: int = 0, values: int = 0) -> None:
        super().__init__(message, remedy)
        self.input = name
        self.nonfinite = nonfinite
        self.values = values


@dataclass(frozen=True)
class Flaw:
    """A sample that could not be made, in the place of the sample."""

    index: int
    error: InputError

    def skipped(self, rows: int = 1) -> Skipped:
        """The flaw as it is recorded."""
        reason = self.error.message
        if not isinstance(self.error, NonFiniteInput):
            return Skipped(index=self.index, reason=reason, rows=rows)
        return Skipped(
            index=self.index,
            reason=reason,
            input=self.error.input,
            nonfinite=self.error.nonfinite,
            values=self.error.values,
            rows=rows,
        )


def attempted(index: int, make: Callable[[], Sample]) -> Sample | Flaw:
    """The sample, or what is wrong with it."""
    try:
        return make()
    except InputError as error:
        return Flaw(index, error)


def sound(items: Iterable[Sample | Flaw], tolerated: int, found: list[Skipped]) -> Iterator[Sample]:
    """The good samples of ``items``; up to ``tolerated`` bad ones go to ``found``.

    Raises:
        InputError: one bad sample too many; the message has its index and its name.
    """
    for item in items:
        if isinstance(item, Flaw):
            tolerate(item, tolerated, found)
        else:
            yield item


def tolerate(flaw: Flaw, tolerated: int, found: list[Skipped], before: int = 0, rows: int = 1) -> None:
    """Record a bad sample, or stop.

    Args:
        before: samples skipped elsewhere.
        rows: samples that are lost with this one.

    Raises:
        InputError: more than ``tolerated`` samples would be lost.
    """
    if before + sum(each.rows for each in found) + rows > tolerated:
        more = f"{tolerated} bad samples were skipped already; " if tolerated else ""
        raise InputError(
            f"{flaw.error.message} (sample {flaw.index})",
            f"{more}{flaw.error.remedy}; or leave out up to N bad samples with --skip-bad-samples N",
        ) from flaw.error
    found.append(flaw.skipped(rows))
