"""What a metric is made of: a meter that takes outputs feed by feed, and the scores of single samples it gives."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeAlias

import numpy as np
from pydantic import Field

from trtpipe.artifact import Record
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.artifact import Feed

Kind: TypeAlias = Literal["hits", "means", "ratio"]

#: The most scores that a record holds: 16 MiB, whatever a small file claims to hold.
MOST_SAMPLES = 4 << 20


class Scores(Record):
    """A metric sample by sample: what paired tests need, packed small enough for a JSON file.

    Attributes:
        kind: ``hits``: 0 or 1 a sample, and the metric is their mean; ``means``: any number a sample, likewise;
            ``ratio``: the metric is the sum of the parts over the sum of the weights (errors over words).
        samples: how many.
        parts: float32[samples], little-endian, deflated, base64.
        weights: likewise, for ``ratio``; empty otherwise.
        whole: the metric of all samples together, where it is no mean of the parts (a detector's mean average
            precision, whose parts are those of single images).
    """

    kind: Kind
    samples: Annotated[int, Field(ge=0, le=MOST_SAMPLES)]
    parts: str
    weights: str = ""
    whole: float | None = None

    @classmethod
    def of(cls, kind: Kind, parts: np.ndarray, weights: np.ndarray | None = None, whole: float | None = None) -> Scores:
        """Pack ``parts`` (and ``weights``), each of shape [samples].

        Raises:
            InputError: there are more than ``MOST_SAMPLES``.
        """
        if len(parts) > MOST_SAMPLES:
            raise InputError(f"{len(parts):,} scores, and {MOST_SAMPLES:,} are the most", "evaluate fewer samples")
        packed = "" if weights is None else _packed(weights)
        return cls(kind=kind, samples=len(parts), parts=_packed(parts), weights=packed, whole=whole)

    @property
    def value(self) -> float:
        """The metric over all samples; 0 if there are none."""
        if self.whole is not None:
            return self.whole
        parts, weights = self.arrays()
        total = float(weights.sum())
        return float(parts.sum()) / total if total else 0.0

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """float64[samples] parts and weights (ones, unless this is a ratio).

        Raises:
            InputError: the text is damaged.
        """
        parts = _unpacked(self.parts, self.samples)
        return parts, _unpacked(self.weights, self.samples) if self.kind == "ratio" else np.ones(self.samples)


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.asarray(values, "<f4").tobytes(), 9)).decode()


def _unpacked(text: str, count: int) -> np.ndarray:
    """The numbers in ``text``, of which no more is unpacked than ``count`` numbers take."""
    if not 0 <= count <= MOST_SAMPLES:
        raise InputError(f"{count:,} samples: a record has at most {MOST_SAMPLES:,}", "measure again")
    size = 4 * count
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise InputError(f"the scores of single samples are damaged: {error}", "measure again") from error
    if len(data) != size or not stream.eof:
        found = f"more than {count} scores" if len(data) > size else f"{len(data) // 4} scores"
        raise InputError(f"{found} for {count} samples: the record is damaged", "measure again")
    values = np.frombuffer(data, "<f4").astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("the scores of single samples hold NaN or infinity", "measure again")
    return values


class Meter(Protocol):
    """Computes a metric of one artifact. Derive from it for the defaults.

    Attributes:
        metric: its name.
        lower_is_better: true for error rates.
        needs_labels: whether feeds without labels are left out.
    """

    @property
    def metric(self) -> str: ...

    @property
    def lower_is_better(self) -> bool:
        return False

    @property
    def needs_labels(self) -> bool:
        return True

    @property
    def chance(self) -> float | None:
        """What guessing gives, once outputs were seen; ``None`` where nothing is known of that."""
        return None

    @property
    def doubt(self) -> str:
        """Why the figure says little, whatever its value; empty where nothing is known of that."""
        return ""

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed: its outputs, the reference's, and its labels, one entry a row.

        Raises:
            InputError: the outputs or labels do not fit the metric.
        """

    def scores(self) -> Scores:
        """The score of every sample."""


def select_output(outputs: Feed, name: str) -> tuple[str, np.ndarray]:
    """The output called ``name`` (empty: the first one), with its name.

    Raises:
        InputError: there is none.
    """
    if name and name not in outputs:
        raise InputError(f"no output is called {name!r}", f"outputs: {', '.join(outputs)}")
    found = name or next(iter(outputs))
    return found, outputs[found]


def ranks(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float64[rows]: how many classes come before the given one, by the scores float[rows, classes].

    Of equal scores the first class comes first, as in argmax; a class whose score is NaN comes last.
    """
    own = np.take_along_axis(scores, classes[:, np.newaxis], axis=1)
    ties_before = (scores == own) & (np.arange(scores.shape[1]) < classes[:, np.newaxis])
    return np.where(np.isnan(own[:, 0]), np.inf, ((scores > own) | ties_before).sum(axis=1))


def concatenated(parts: list[np.ndarray]) -> np.ndarray:
    """Arrays of many feeds as one; empty for none."""
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
