"""What the float32 graph answered to calibration samples: ``observe`` computes it, and later stages need not again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Record
from trtpipe.data.sample import Sample, content_digests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trtpipe.artifact import Feed

#: Bytes of outputs that are kept: all of a classifier's, those of some samples of a segmentation network.
MOST_BYTES = 16 << 20


class SavedOutput(Record):
    """One output of one sample: where its bytes are follows from all before it.

    Attributes:
        sample: digest of the feed.
    """

    sample: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(eq=False)
class SampleOutputs:
    """Outputs by the digest of the feed that gave them, for those with the smallest digests: whatever the order is.

    Attributes:
        known: digest -> the outputs.
    """

    known: dict[str, Feed] = field(default_factory=dict)

    def add(self, feed: Feed, outputs: Feed) -> None:
        """Keep a copy of the outputs of one feed, in place of others if need be."""
        if outputs:
            self._keep([(digest_of(feed), {name: value.copy() for name, value in outputs.items()})])

    def merge(self, other: SampleOutputs) -> SampleOutputs:
        """Those of both taken together."""
        both = SampleOutputs(dict(self.known))
        both._keep(other.known.items())
        return both

    def of(self, feed: Feed, names: Sequence[str]) -> Feed | None:
        """These outputs for a feed; ``None`` where one is not known."""
        found = self.known.get(digest_of(feed), {})
        return {name: found[name] for name in names} if found.keys() >= set(names) else None

    def pack(self) -> tuple[tuple[SavedOutput, ...], np.ndarray]:
        """What there is, and uint8[bytes] of all values, one after the other."""
        outputs = [(digest, *each) for digest, found in sorted(self.known.items()) for each in found.items()]
        about = tuple(SavedOutput(sample=d, name=n, dtype=v.dtype.name, shape=v.shape) for d, n, v in outputs)
        content = b"".join(np.ascontiguousarray(value).tobytes() for _, _, value in outputs)
        return about, np.frombuffer(content, np.uint8)

    @classmethod
    def unpack(cls, about: Sequence[SavedOutput], content: np.ndarray) -> SampleOutputs:
        """The inverse of ``pack``.

        Raises:
            ValueError, TypeError: they contradict each other.
        """
        if sum(each.size for each in about) != content.size or any(min(each.shape, default=0) < 0 for each in about):
            raise ValueError("outputs of another size")
        found, begin = cls(), 0
        for each in about:
            part = content[begin : begin + each.size].tobytes()
            array = np.frombuffer(part, np.dtype(each.dtype)).reshape(each.shape)
            found.known.setdefault(each.sample, {})[each.name] = array
            begin += each.size
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampleOutputs):
            return NotImplemented
        (mine, values), (theirs, others) = self.pack(), other.pack()
        return mine == theirs and np.array_equal(values, others)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def _keep(self, more: Iterable[tuple[str, Feed]]) -> None:
        self.known.update(more)
        held = sum(_size(outputs) for outputs in self.known.values())
        while held > MOST_BYTES:
            held -= _size(self.known.pop(max(self.known)))


def digest_of(feed: Feed) -> str:
    """The sha256 of one feed's content."""
    return content_digests([Sample(feed)]).inputs


def _size(outputs: Feed) -> int:
    return sum(value.nbytes for value in outputs.values())
