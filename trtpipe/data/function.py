"""Samples from the user's own Python function: ``path/file.py:function`` or ``package.module:function``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.data.bad_samples import BadSample, good_samples, try_sample
from trtpipe.data.batching import batched, read_ahead
from trtpipe.data.input_checks import checked, free_batch, is_single, static_batch
from trtpipe.data.sample import Sample, Skipped, content_digests
from trtpipe.data.selection import dropped_warning, fewer_samples, no_samples
from trtpipe.data.user_process import Unusable, UserProcess, no_feed
from trtpipe.data.usercode import UserFunction
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from trtpipe.artifact import Feed, IOContract
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import ContentDigests, Dataset
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress


def recognizes(source: str) -> bool:
    """Whether ``source`` names a function in a file or a module."""
    module, colon, name = source.rpartition(":")
    return bool(module and colon) and name.isidentifier()


def open_function(
    data: DataSettings, contract: IOContract, limits: Limits | None = None, progress: Progress | None = None
) -> Dataset:
    """Samples from a function that takes no arguments and yields, in order, any of:

    - a dict, input name -> array: one feed;
    - an array, for a model with one input;
    - ``(feed, labels)``, with either of the two above and one integer for each row.

    Feeds have the batch axis; if the first one does not, all are taken as single samples and stacked to ``data.batch``
    (or the model's fixed batch size). Arrays are anything ``numpy.asarray`` takes. The function is called again for
    each iteration, so it must yield the same each time. It runs in a child process.

    Raises:
        InputError: there is no such function, or loading it fails.
    """
    return FunctionDataset(data, contract, UserProcess(data.source, limits, progress=progress))


def hold_feeds(data: DataSettings, contract: IOContract, feeds: Callable[[], Iterable[object]]) -> Dataset:
    """Samples that the caller of the Python API holds: whatever a function of ``open_function`` may yield.

    Args:
        feeds: gives them from the start whenever it is called; the arrays are copied.
    """
    return FunctionDataset(data, contract, UserFunction(data.source, data.source, Path.cwd(), feeds))


class FunctionDataset:
    """The samples a function yields. Their number is not known in advance.

    ``data.samples`` counts rows: feeds are used until there are as many, the last one as a whole.
    """

    seed = None
    preprocessing = None
    classes: tuple[str, ...] = ()
    size = None

    def __init__(self, data: DataSettings, contract: IOContract, function: UserFunction | UserProcess) -> None:
        self._data, self._function = data, function
        self._contract = contract
        self._fixed_batch = static_batch(contract)
        self._batch = self._fixed_batch or data.batch
        self._where = data.source
        self._dropped: list[int] = []
        self._fewer: list[int] = []
        self._max_bad_samples = data.skip_bad_samples
        self._skipped: list[Skipped] = []
        self.samples = data.samples

    @property
    def name(self) -> str:
        return f"{self._function.label} ({'all' if self.samples is None else f'the first {self.samples}'} samples)"

    @property
    def warnings(self) -> tuple[str, ...]:
        fewer = (fewer_samples(found, self.samples or 0) for found in self._fewer)
        return (*fewer, *(dropped_warning(rows, self._batch) for rows in self._dropped))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(self._skipped)

    def __iter__(self) -> Generator[Sample, None, None]:
        """Call the function and yield its feeds, one read ahead: the function runs in a thread of its own.

        Raises:
            InputError: the function failed, yielded something that does not fit the model, or too few samples.
        """
        stop = self._function.stop if isinstance(self._function, UserProcess) else None
        with closing(self._feeds()) as feeds:
            yield from read_ahead(feeds, stop)

    def _feeds(self) -> Generator[Sample, None, None]:
        with closing(self._raw()) as stream:
            self._skipped.clear()
            self._dropped.clear()
            head = list(_up_to_the_first_sample(stream))
            if not head:
                raise no_samples(self._where)
            single = any(isinstance(item, Sample) and is_single(item.feed, self._contract) for item in head)
            contract = free_batch(self._contract) if single else self._contract
            items = self._checked(chain(head, stream), contract)
            samples = self._counted(good_samples(items, self._max_bad_samples, self._skipped))
            fixed = self._fixed_batch is not None
            yield from (
                batched(samples, self._batch, self._where, fixed=fixed, dropped=self._dropped) if single else samples
            )

    def unbatched(self) -> FunctionDataset:
        """The same samples one by one, where the function yields single ones and the model takes any number of them."""
        data = self._data.model_copy(update={"batch": 1})
        return FunctionDataset(data, self._contract, self._function)

    def digests(self) -> ContentDigests:
        return self._digests

    @cached_property
    def _digests(self) -> ContentDigests:
        return content_digests(self)

    def _raw(self) -> Generator[Sample | BadSample, None, None]:
        """What the function yields, as arrays, before any check."""
        for index, item in enumerate(self._function.items()):
            yield try_sample(index, partial(self._sample, item, f"{self._where}: sample {index}"))

    def _checked(self, items: Iterator[Sample | BadSample], contract: IOContract) -> Iterator[Sample | BadSample]:
        for index, item in enumerate(items):
            if isinstance(item, BadSample):
                yield item
            else:
                yield try_sample(index, partial(checked, item, contract, f"{self._where}: sample {index}"))

    def _sample(self, item: Any, where: str) -> Sample:
        pair = isinstance(item, (tuple, list)) and len(item) == 2 and not isinstance(item, Unusable)
        feed, labels = item if pair else (item, None)
        try:
            return Sample(self._feed(feed, where), None if labels is None else _copy(labels))
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{where}: not arrays of numbers: {error}", "yield numpy arrays") from error

    def _feed(self, feed: Any, where: str) -> Feed:
        if isinstance(feed, Mapping):
            return {str(name): _copy(value) for name, value in feed.items()}
        names = [spec.name for spec in self._contract.inputs]
        if isinstance(feed, Unusable):
            raise no_feed(where, feed, names)
        if len(names) == 1 and (hasattr(feed, "__array__") or isinstance(feed, (list, int, float))):
            return {names[0]: _copy(feed)}
        raise no_feed(where, Unusable(type(feed).__name__, arrays=False), names)

    def _counted(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples, up to the number asked for."""
        taken = 0
        self._fewer.clear()
        for sample in samples:
            taken += sample.rows
            yield sample
            if self.samples is not None and taken >= self.samples:
                return
        if self.samples is not None:
            self._fewer.append(taken)


def _up_to_the_first_sample(items: Iterator[Sample | BadSample]) -> Iterator[Sample | BadSample]:
    for item in items:
        yield item
        if isinstance(item, Sample):
            return


def _copy(value: Any) -> np.ndarray:
    """A copy: the function may overwrite its buffers before the next yield. In C order, which sessions ask for."""
    return np.array(np.asarray(value), order="C")
