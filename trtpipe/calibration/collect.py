"""The streaming pass of calibration: run the model on every feed, keep statistics only."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from trtpipe.calibration.checkpoint import Checkpoints, State
from trtpipe.calibration.convergence import Course
from trtpipe.calibration.data_summary import AccountBuilder
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import add_columns
from trtpipe.data.bad_samples import Flaw, Skipped, tolerate
from trtpipe.data.sample import Sample
from trtpipe.data.selection import empty
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.data.sample import Dataset
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.progress import Progress


def collect(
    reduction: Reduction,
    dataset: Dataset,
    tensors: Iterable[str],
    progress: Progress,
    tolerated: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Statistics:
    """Statistics of ``tensors`` over all of ``dataset``; memory use does not depend on the number of samples.

    Args:
        reduction: the model, whose outputs go to a ``Tally`` of ``tensors``.
        dataset: the samples.
        tensors: names of the tensors to observe; they hold floats.
        progress: told of phase ``calibrate``, in samples.
        tolerated: bad samples that may be skipped, those the data set itself skips included.
        checkpoints: where to go on from, and where to leave what an interruption would lose.

    Raises:
        InputError: there are no samples, one bad sample too many, or a tensor became NaN or infinite.
    """
    work = _Pass(reduction, dataset, Statistics.empty(tensors), tolerated)
    if checkpoints is not None and (found := checkpoints.load()) is not None:
        work.restore(*found)
        progress.note(f"going on behind sample {work.account.samples}, where an earlier run was interrupted")
    passed = work.taken
    progress.advance("calibrate", work.account.samples, dataset.samples)
    with closing(iter(dataset)) as samples:
        for index, sample in enumerate(samples):
            if index < passed:
                continue
            work.take(sample)
            progress.advance("calibrate", work.account.samples, dataset.samples)
            if checkpoints is not None and checkpoints.due:
                checkpoints.save(work.sofar(), work.save())
    statistics = work.finish()
    if checkpoints is not None:
        checkpoints.remove()
    return statistics


class _Pass:
    """A pass under way."""

    def __init__(self, reduction: Reduction, dataset: Dataset, statistics: Statistics, tolerated: int) -> None:
        self._reduction = reduction
        self._dataset = dataset
        self._tolerated = tolerated
        self._course = Course()
        self._skipped: list[Skipped] = []
        self._statistics = statistics
        self.account = AccountBuilder(dataset)
        self.taken = 0

    def take(self, sample: Sample) -> None:
        """Run one feed and count what it gives; one that cannot be used leaves no trace but in the account."""
        try:
            self._reduction.run(sample.feed)
        except InputError as error:
            named = self._named(error)
            if not self._tolerated:
                raise named from error
            self._skip(named, sample.rows)
        else:
            self.account.add(sample.feed)
            if self._course.due(self.account.samples):
                self._course.note(self.sofar(), self.account.samples)
        self.taken += 1

    def sofar(self) -> Statistics:
        """The statistics of all that was taken."""
        add_columns(self._statistics, self._reduction.result())
        return self._statistics

    def save(self) -> State:
        return State(
            taken=self.taken,
            account=self.account.save(),
            course=self._course.save(),
            skipped=tuple(self._skipped),
        )

    def restore(self, statistics: Statistics, state: State) -> None:
        self._statistics = statistics
        self.taken = state.taken
        self.account.restore(state.account)
        self._course.restore(state.course)
        self._skipped = list(state.skipped)

    def finish(self) -> Statistics:
        """The statistics with their account.

        Raises:
            InputError: there were no samples, or one too many was skipped.
        """
        if not self.account.feeds:
            raise empty(self._dataset.name)
        statistics = self.sofar()
        settling = self._course.settling(statistics, self.account.samples)
        skipped = tuple(sorted((*self._dataset.skipped, *self._skipped), key=lambda each: (each.index, each.reason)))
        lost = sum(each.rows for each in skipped)
        if lost > self._tolerated:
            raise InputError(
                f"{self._dataset.name}: {lost} bad samples, of which {self._tolerated} may be skipped; "
                f"the last: {skipped[-1].reason}",
                "correct the data, or raise --skip-bad-samples",
            )
        statistics.accounts = (self.account.finish(settling, skipped),)
        return statistics

    def _named(self, error: InputError) -> InputError:
        """``error`` with the place in the data."""
        place = f"feed {self.taken}, behind sample {self._before}"
        return InputError(f"{self._dataset.name}: {place}: {error.message}", error.remedy)

    def _skip(self, error: InputError, rows: int) -> None:
        before = sum(each.rows for each in self._dataset.skipped)
        tolerate(Flaw(self._before, error), self._tolerated, self._skipped, before, rows)

    @property
    def _before(self) -> int:
        """Samples that came before this feed, those left out included."""
        index = self.account.samples + sum(each.rows for each in self._skipped)
        for each in self._dataset.skipped:  # may be one ahead of this feed
            index += each.rows if each.index <= index else 0
        return index
