"""observe, by several workers: each runs the model on a part of the data, and one puts their counts together.

The result is that of one pass, byte for byte: statistics of tensors are integer counts and exact extremes, and what
depends on the order of samples (how the ranges converge, the summary of the data) is made by the very same pass at the
end, over the same data, with counts in place of the model. So parts end wherever that pass looks at the statistics.
"""

from __future__ import annotations

from contextlib import closing
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.stage_settings import ObserveSettings, ShardSettings
from trtpipe.errors import InputError, InternalError
from trtpipe.reference.reference_outputs import opened
from trtpipe.stages.observe import OBSERVED, STATISTICS, Observe, kept_outputs, observed_tensors, showing
from trtpipe.stages.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtpipe.artifact import Artifact, Feed
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.data.dataset import Dataset
    from trtpipe.data.sample import Sample
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

_PART = "part-{:09d}.npz"


def can_shard(settings: ObserveSettings | NotNeeded) -> bool:
    """Whether parts of the data can be observed apart: not where extremes of all tensors are gathered in the same pass,
    nor where samples may be skipped, of which only a pass over all knows how many there were.
    """
    if isinstance(settings, NotNeeded):
        return False
    return settings.ranges and not settings.tensor_ranges and not settings.skip_bad_samples


class ObserveShard(Stage[ShardSettings]):
    """Statistics of one part of the data.

    Args:
        index, count: which part, of how many.
    """

    name = "observe-shard"
    version = Observe.version
    packages = Observe.packages

    def __init__(self, index: int, count: int) -> None:
        self._index, self._count = index, count

    @property
    def produces(self) -> str:
        return f"statistics-{self._index}-of-{self._count}"

    def settings(self, request: BuildRequest) -> ShardSettings | NotNeeded:
        whole = Observe().settings(request)
        if isinstance(whole, NotNeeded):
            return whole
        return ShardSettings(whole=whole, index=self._index, count=self._count)

    def consumes(self, settings: ShardSettings) -> tuple[str, ...]:
        return ("simplified", "calibration-data")

    def fingerprint(self, settings: ShardSettings, runtime: Settings) -> dict[str, str]:
        return load_backend("onnxruntime").fingerprint(runtime)

    def run(
        self, settings: ShardSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.calibration.statistics import Statistics
        from trtpipe.calibration.statistics_arrays import STATISTICS_REDUCER, add_arrays
        from trtpipe.calibration.statistics_file import save_statistics
        from trtpipe.passes.clean_up import load_clean
        from trtpipe.passes.plugins import cut_plugins

        dataset = _data(inputs)
        model = load_clean(inputs.path("simplified"))
        cut_plugins(model)
        tensors = observed_tensors(model, attention=settings.whole.attention)
        names = []
        shown = (*tensors, *kept_outputs(model, tensors))
        with opened(showing(model, shown), workdir, runtime, OBSERVED) as runner:
            del model  # whoever runs it reads the file
            reduction = runner.reduced(STATISTICS_REDUCER, tensors)
            for end, part in _parts(dataset, settings.index, settings.count):
                found = Statistics.empty(tensors)
                for sample in part:
                    found.outputs.add(sample.feed, reduction.run(sample.feed))
                add_arrays(found, reduction.result())
                names.append(_PART.format(end))
                save_statistics(found, workdir / names[-1])
        if not names:  # more parts than feeds
            names = [_PART.format(0)]
            save_statistics(Statistics.empty(tensors), workdir / names[0])
        return Draft(self.produces, workdir, tuple(names))

    def check(self, draft: Draft, inputs: Inputs) -> None:
        from trtpipe.calibration.statistics_file import load_statistics

        for name in draft.names:
            load_statistics(draft.folder / name)


class ObserveFromShards(Observe):
    """What ``observe`` makes, from what shards have found; its key is the same.

    Args:
        shards: the artifacts of all of them.
    """

    def __init__(self, shards: Sequence[Artifact]) -> None:
        self._shards = tuple(shards)

    def run(
        self, settings: ObserveSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.calibration.collect import collect
        from trtpipe.calibration.statistics_file import load_statistics, save_statistics
        from trtpipe.passes.clean_up import load_clean
        from trtpipe.passes.plugins import cut_plugins

        model = load_clean(inputs.path("simplified"))
        cut_plugins(model)
        tensors = observed_tensors(model, attention=settings.attention)
        del model
        parts = {
            int(file.name.removesuffix(".npz").rpartition("-")[2]): load_statistics(shard.folder / file.name)
            for shard in self._shards
            for file in shard.files
        }
        statistics = collect(_Replay(parts, tensors), _data(inputs), tensors, progress)
        for part in parts.values():
            statistics.outputs = statistics.outputs.merge(part.outputs)
        save_statistics(statistics, workdir / STATISTICS)
        return Draft("statistics", workdir, (STATISTICS,))


class _Replay:
    """A reduction that finds in shards what the model would have given.

    Args:
        parts: statistics by the number of the feed after the last one of them.
    """

    def __init__(self, parts: dict[int, Statistics], tensors: Sequence[str]) -> None:
        self._parts = sorted(parts.items())
        self._tensors = tensors
        self._feeds = self._counted = 0

    def run(self, feed: Feed) -> Feed:
        """One more feed."""
        self._feeds += 1
        return {}

    def result(self) -> Feed:
        """The counts of all feeds since the last call, as a ``StatisticsReducer`` gives them."""
        from trtpipe.calibration.statistics import Statistics
        from trtpipe.calibration.statistics_arrays import to_arrays

        taken = [(end, part) for end, part in self._parts if end <= self._feeds]
        self._parts = self._parts[len(taken) :]
        self._counted = taken[-1][0] if taken else self._counted
        if self._counted != self._feeds:
            raise InternalError(f"no part of the data ends at feed {self._feeds}")
        return to_arrays(reduce(Statistics.merge, (part for _, part in taken), Statistics.empty(self._tensors)))


def _data(inputs: Inputs) -> Dataset:
    dataset = inputs.datasets.get("calibration-data")
    if dataset is None:
        raise InputError("an 8-bit precision needs calibration data, and none was given", "add calib_data")
    return dataset


def _parts(dataset: Dataset, index: int, count: int) -> Iterator[tuple[int, Iterator[Sample]]]:
    """The feeds of one shard, in parts: the number of the feed after each, and its samples."""
    from trtpipe.calibration.convergence import ConvergenceMonitor, RangeSnapshot

    size = dataset.size if dataset.size is not None else _length(dataset)
    start, end = size * index // count, size * (index + 1) // count
    ends, rows, snapshots = [], 0, ConvergenceMonitor()
    with closing(iter(dataset)) as samples:
        for number, sample in enumerate(samples):
            rows += sample.rows
            if snapshots.due(rows):
                snapshots.snapshots += (RangeSnapshot(samples=rows, ranges=()),)
                ends.append(number + 1)
    cuts = sorted({*(each for each in ends if start < each < end), end})
    with closing(iter(dataset)) as samples:
        numbered = ((number, sample) for number, sample in enumerate(samples) if start <= number)
        before = start
        for cut in cuts:
            if cut > before:
                yield cut, (sample for _, sample in _first(numbered, cut - before))
            before = cut


def _length(dataset: Dataset) -> int:
    with closing(iter(dataset)) as samples:
        return sum(1 for _ in samples)


def _first(items: Iterator[tuple[int, Sample]], count: int) -> Iterator[tuple[int, Sample]]:
    from itertools import islice

    return islice(items, count)
