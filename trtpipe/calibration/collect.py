"""The calibration pass: run the model on every feed, keep statistics only."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from trtpipe.calibration.checkpoint import Checkpoints, State
from trtpipe.calibration.convergence import ConvergenceMonitor
from trtpipe.calibration.data_summary import DataSummaryBuilder
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import add_arrays
from trtpipe.data.bad_samples import BadSample, skip_bad_sample
from trtpipe.data.selection import no_samples
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.data.sample import Dataset, Sample, Skipped
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.progress import Progress


def collect(
    reduction: Reduction,
    dataset: Dataset,
    tensors: Iterable[str],
    progress: Progress,
    max_bad_samples: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Statistics:
    """Statistics of ``tensors`` over all of ``dataset``; memory use does not depend on the number of samples.

    Args:
        reduction: the model, whose outputs go to a ``StatisticsReducer`` of ``tensors``; others are kept.
        dataset: the samples.
        tensors: names of the tensors to observe; they hold floats.
        progress: called with phase ``calibrate``, in samples.
        max_bad_samples: bad samples that may be skipped, those the data set itself skips included.
        checkpoints: where to resume from, and where to save.

    Raises:
        InputError: there are no samples, too many bad samples, or a tensor became NaN or infinite.
    """
    work = _Pass(reduction, dataset, Statistics.empty(tensors), max_bad_samples)
    if checkpoints is not None and (found := checkpoints.load()) is not None:
        work.restore(*found)
        progress.note(f"resuming after sample {work.summary.samples}: an earlier run was interrupted there")
    done = work.feeds
    progress.advance("calibrate", work.summary.samples, dataset.samples)
    with closing(iter(dataset)) as samples:
        for index, sample in enumerate(samples):
            if index < done:
                continue
            work.run(sample)
            progress.advance("calibrate", work.summary.samples, dataset.samples)
            if checkpoints is not None and checkpoints.due:
                checkpoints.save(work.current(), work.state())
    statistics = work.finish()
    if checkpoints is not None:
        checkpoints.remove()
    return statistics


class _Pass:
    """A pass in progress."""

    def __init__(self, reduction: Reduction, dataset: Dataset, statistics: Statistics, max_bad_samples: int) -> None:
        self._reduction = reduction
        self._dataset = dataset
        self._max_bad_samples = max_bad_samples
        self._monitor = ConvergenceMonitor()
        self._skipped: list[Skipped] = []
        self._statistics = statistics
        self.summary = DataSummaryBuilder(dataset)
        self.feeds = 0

    def run(self, sample: Sample) -> None:
        """Run one feed and count its values; a bad one is recorded as skipped and changes nothing else."""
        try:
            outputs = self._reduction.run(sample.feed)
        except InputError as error:
            where = f"{self._dataset.name}: feed {self.feeds}, after sample {self._position}"
            located = InputError(f"{where}: {error.message}", error.remedy)
            if not self._max_bad_samples:
                raise located from error
            before = sum(each.rows for each in self._dataset.skipped)
            bad = BadSample(self._position, located)
            skip_bad_sample(bad, self._max_bad_samples, self._skipped, before, sample.rows)
        else:
            self.summary.add(sample.feed)
            self._statistics.outputs.add(sample.feed, outputs)
            if self._monitor.due(self.summary.samples):
                self._monitor.record(self.current(), self.summary.samples)
        self.feeds += 1

    def current(self) -> Statistics:
        """The statistics of all feeds so far."""
        add_arrays(self._statistics, self._reduction.result())
        return self._statistics

    def state(self) -> State:
        return State(
            feeds=self.feeds,
            data_summary=self.summary.state,
            snapshots=self._monitor.snapshots,
            skipped=tuple(self._skipped),
        )

    def restore(self, statistics: Statistics, state: State) -> None:
        self._statistics = statistics
        self.feeds = state.feeds
        self.summary.state = state.data_summary
        self._monitor.snapshots = state.snapshots
        self._skipped = list(state.skipped)

    def finish(self) -> Statistics:
        """The statistics with the summary of the data.

        Raises:
            InputError: there were no samples, or too many bad ones.
        """
        if not self.summary.state.feeds:
            raise no_samples(self._dataset.name)
        statistics = self.current()
        convergence = self._monitor.convergence(statistics, self.summary.samples)
        skipped = tuple(sorted((*self._dataset.skipped, *self._skipped), key=lambda each: (each.index, each.reason)))
        rows = sum(each.rows for each in skipped)
        if rows > self._max_bad_samples:
            raise InputError(
                f"{self._dataset.name}: {rows} bad samples, of which {self._max_bad_samples} may be skipped; "
                f"the last: {skipped[-1].reason}",
                "correct the data, or raise --skip-bad-samples",
            )
        statistics.data_summaries = (self.summary.finish(convergence, skipped),)
        return statistics

    @property
    def _position(self) -> int:
        """Number of samples before this feed, skipped ones included."""
        index = self.summary.samples + sum(each.rows for each in self._skipped)
        for each in self._dataset.skipped:  # may be one ahead of this feed
            index += each.rows if each.index <= index else 0
        return index
