"""Outputs kept as Polygraphy's RunResults, so that other tolerances can be applied without running again.

Beside those of every artifact the file holds, under the label ``inputs``, the inputs that may be masks of outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.accuracy.alignment import may_be_masks
from trtpipe.accuracy.parity import Contender, ParityRun, compare
from trtpipe.config.formats import FULL_PRECISION
from trtpipe.data.sample import Sample
from trtpipe.errors import InputError
from trtpipe.isolation.imports import without
from trtpipe.progress import NullProgress

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from trtpipe.artifact import Feed, TensorSpec
    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import Tolerance

#: Bytes of outputs that are kept at most, all artifacts together.
MOST_BYTES = 32 << 20
#: Bytes of a file of outputs that are read at most; one feed alone may be larger than the above.
_MOST_TEXT = 1 << 30
#: The label of inputs, which no artifact has.
INPUTS = "inputs"


class Recording:
    """The outputs of the first feeds with the inputs that may be masks, up to a number of bytes; at least one feed."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._full = False
        self.feeds: list[Mapping[str, Feed]] = []

    def add(self, outputs: Mapping[str, Feed], feed: Feed) -> None:
        """Keep one feed's outputs, artifact by artifact, if there is room."""
        if masks := may_be_masks(feed, next(iter(outputs.values()), {})):
            outputs = {**outputs, INPUTS: masks}
        size = sum(value.nbytes for found in outputs.values() for value in found.values())
        self._full = self._full or bool(self.feeds and self._bytes + size > self._most)
        if not self._full:
            self.feeds.append(outputs)
            self._bytes += size

    @without("torch")
    def save(self, path: Path) -> None:
        """Write a file that Polygraphy's own tools read too (``polygraphy inspect data``)."""
        from polygraphy.comparator import IterationResult, RunResults
        from polygraphy.logger import G_LOGGER

        results = RunResults()
        for label in self.feeds[0] if self.feeds else ():
            runs = [IterationResult(dict(feed[label]), runtime=0.0, runner_name=label) for feed in self.feeds]
            results.append((label, runs))
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            results.save(str(path))


@without("torch")
def load_outputs(path: Path) -> dict[str, list[Feed]]:
    """Artifact -> its outputs, feed by feed.

    Raises:
        InputError: no such file, or not one of Polygraphy's.
    """
    from polygraphy.comparator import RunResults
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    if not path.is_file():
        raise InputError(f"{path}: no such file", "give the folder or the outputs.json that verify wrote")
    if path.stat().st_size > _MOST_TEXT:
        raise InputError(f"{path}: larger than {_MOST_TEXT >> 20} MiB, the most that is read", "verify again")
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            found = RunResults.load(str(path))
        return {
            label: [{name: run[name] for name in run} for run in runs]  # a lazy mapping: arrays come out here
            for label, runs in found.items()
        }
    except (PolygraphyException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not saved outputs: {str(error).splitlines()[0]}", "verify again") from error


class Replay:
    """A runner that returns saved outputs, in their order."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, outputs: list[Feed], device: str = "saved outputs") -> None:
        self._saved = iter(outputs)
        self.device = device

    def infer(self, feed: Feed) -> Feed:
        """The next saved outputs, whatever the feed."""
        return next(self._saved)


class Feeds:
    """A few feeds in memory, as samples without labels."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = feeds
        self.size = len(feeds)

    def __iter__(self) -> Generator[Sample, None, None]:
        yield from map(Sample, self._feeds)


def replay(
    saved: Mapping[str, list[Feed]],
    precisions: Mapping[str, Precision],
    before: Mapping[str, str],
    tolerance: Tolerance,
    *,
    real: bool,
) -> ParityRun:
    """Compare saved outputs as they were compared when they were made, under ``tolerance``.

    Args:
        saved: as ``load_outputs`` gives them; the first artifact is the reference, ``inputs`` is none.
        precisions: of every artifact.
        before: artifact -> the one it was made from.
        real: whether they are of real samples.
    """
    contenders = [
        Contender(label, Replay(outputs), precisions.get(label, FULL_PRECISION), before=before.get(label, ""))
        for label, outputs in saved.items()
        if label != INPUTS
    ]
    feeds = saved.get(INPUTS) or [{}] * len(next(iter(saved.values()), []))
    return compare(contenders[0], contenders[1:], Feeds(feeds), tolerance, None, NullProgress(), real=real)
