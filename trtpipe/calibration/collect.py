"""The streaming pass of calibration: run the model on every feed, keep statistics only."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from trtpipe.calibration.account import AccountBuilder
from trtpipe.calibration.course import Course
from trtpipe.calibration.selection import empty
from trtpipe.calibration.statistics import Statistics
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trtpipe.backends.base import Feed
    from trtpipe.calibration.sample import Dataset
    from trtpipe.progress import Progress


def collect(run: Callable[[Feed], Feed], dataset: Dataset, tensors: Iterable[str], progress: Progress) -> Statistics:
    """Statistics of ``tensors`` over all of ``dataset``; memory use does not depend on the number of samples.

    Args:
        run: the model: takes a feed, gives the values of (at least) ``tensors``.
        dataset: the samples.
        tensors: names of the tensors to observe; they hold floats.
        progress: told of phase ``calibrate``, in samples.

    Raises:
        InputError: there are no samples, a sample is bad, or a tensor became NaN or infinite.
    """
    statistics = Statistics.empty(tensors)
    account = AccountBuilder(dataset)
    course = Course()
    progress.advance("calibrate", 0, dataset.samples)
    with closing(iter(dataset)) as samples:
        for sample in samples:
            statistics.update(run(sample.feed))
            _refuse_nonfinite(statistics, dataset, account)
            account.add(sample.feed)
            course.follow(statistics, account.samples)
            progress.advance("calibrate", account.samples, dataset.samples)
    if not account.feeds:
        raise empty(dataset.name)
    statistics.accounts = (account.finish(course.settling(statistics, account.samples)),)
    return statistics


def _refuse_nonfinite(statistics: Statistics, dataset: Dataset, before: AccountBuilder) -> None:
    for name, tensor in statistics.tensors.items():
        if tensor.nonfinite:
            raise InputError(
                f"{dataset.name}: tensor {name!r} became NaN or infinite ({tensor.nonfinite} values)"
                f" in feed {before.feeds}, behind sample {before.samples}",
                "check the data's normalisation and this sample; the model itself overflows in float32 on it",
            )
