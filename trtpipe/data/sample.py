"""Samples, and the interface of every data source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtpipe.artifact import Record
from trtpipe.digest import canonical_json, sha256_json

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import numpy as np

    from trtpipe.artifact import Feed
    from trtpipe.config.recipe import Preprocessing


@dataclass(frozen=True)
class Sample:
    """The inputs of one run, with the batch axis.

    Attributes:
        feed: input name -> array, in the order of the model's inputs.
        labels: int64[rows], the class of each row of the batch; for other tasks int64 or float32[rows, ...]
            (boxes, transcripts); ``None`` where the data has no labels.
    """

    feed: Feed
    labels: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Rows of the batch: the length of the first input's first axis; 1 if no input has an axis."""
        return next((value.shape[0] for value in self.feed.values() if value.ndim), 1)


class Skipped(Record):
    """A bad sample that was skipped.

    Attributes:
        index: its position among the selected samples, from 0; of the first row, where a whole batch failed.
        reason: what is wrong with it; names the file, row or sample.
        input, nonfinite, values: where an input held NaN or infinity: its name, how many, and of how many values.
        rows: samples lost with it.
    """

    index: int
    reason: str
    input: str = ""
    nonfinite: int = 0
    values: int = 0
    rows: int = 1


class Dataset(Protocol):
    """Samples that can be iterated any number of times, in the same order each time."""

    @property
    def name(self) -> str:
        """What the data is, for reports: ``images under imgs (256 of 1000, seed 0)``."""

    @property
    def size(self) -> int | None:
        """Number of feeds; ``None`` if it is not known in advance."""

    @property
    def samples(self) -> int | None:
        """Number of samples (rows of all feeds); ``None`` if it is not known in advance."""

    @property
    def seed(self) -> int | None:
        """The seed that selected or made the samples; ``None`` if none did."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How files became tensors; ``None`` if the data came as tensors."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that labels are numbers of; empty where only the numbers are known."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the data; complete after an iteration."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Bad samples skipped by the last iteration, so far."""

    def __iter__(self) -> Generator[Sample, None, None]:
        """Iterate over the samples; memory use does not depend on their number.

        Raises:
            InputError: a sample cannot be read or does not fit the model; the message names it.
        """

    def digests(self) -> ContentDigests:
        """Those of the content that is used: never of paths or times, nor of the batch size."""


@dataclass(frozen=True)
class ContentDigests:
    """The sha256 over what a model is given, and that over the labels, which only a metric reads.

    Attributes:
        labels: empty where there are none.
    """

    inputs: str
    labels: str = ""


class RowContents:
    """The sha256 over the rows of samples, whatever their order and however they are split into feeds.

    One is of the inputs, one of the labels that go with them: labels that were swapped change the second alone.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, str]] = []

    @classmethod
    def of(cls, sample: Sample) -> RowContents:
        """Those of one feed."""
        contents = cls()
        contents.add(sample)
        return contents

    def add(self, sample: Sample) -> None:
        """Take one feed."""
        for row in range(sample.rows):
            digest = hashlib.sha256()
            for name, value in sample.feed.items():
                part = _row(value, row, sample.rows)
                digest.update(canonical_json([name, part.dtype.name, list(part.shape)]).encode() + part.tobytes())
            label = "" if sample.labels is None else canonical_json(sample.labels[row].tolist())
            self._rows.append((digest.hexdigest(), label))

    @property
    def rows(self) -> list[str]:
        """Those of the inputs of every row so far, in their order."""
        return [row for row, _ in self._rows]

    @property
    def inputs(self) -> str:
        """Of all inputs so far."""
        return sha256_json(sorted(row for row, _ in self._rows))

    @property
    def labels(self) -> str:
        """Of all labels so far; empty where there were none."""
        return sha256_json([label for _, label in sorted(self._rows)]) if any(x for _, x in self._rows) else ""


def content_digests(samples: Iterable[Sample]) -> ContentDigests:
    """The digests over the rows of ``samples``: of names, types, shapes and values; and of labels.

    The same rows give the same digests however they are split into batches.
    """
    inputs, labels = hashlib.sha256(), hashlib.sha256()
    labeled = False
    for sample in samples:
        rows = sample.rows
        for row in range(rows):
            parts = {name: _row(value, row, rows) for name, value in sample.feed.items()}
            head = [[name, part.dtype.name, list(part.shape)] for name, part in parts.items()]
            inputs.update(canonical_json(head).encode())
            for part in parts.values():
                inputs.update(part.tobytes())
            if sample.labels is not None:
                labeled = True
                labels.update(canonical_json(sample.labels[row].tolist()).encode())
    return ContentDigests(inputs.hexdigest(), labels.hexdigest() if labeled else "")


def _row(value: np.ndarray, row: int, rows: int) -> np.ndarray:
    """One row of a batch; an input without a batch axis belongs to every row as a whole."""
    return value[row, ...] if value.ndim and value.shape[0] == rows else value
