"""Where outputs depart from the reference's: by sample, by channel, and decisions that changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.recording import load_outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from trtpipe.accuracy.reports import ParityReport
    from trtpipe.artifact import Feed

#: Sizes of an axis whose positions count as channels, or as classes.
_FEWEST, _MOST = 2, 4096
_CHANNELS, _MOST_CHANNELS = 1, 256
_MOST_CHANGES = 30


@dataclass(frozen=True)
class Change:
    """Decisions that went from one class to another.

    Attributes:
        samples: their numbers in the data set, from 0.
    """

    old: str
    new: str
    samples: tuple[int, ...]


@dataclass(frozen=True)
class OutputErrors:
    """How far one output of an artifact departs from the reference's.

    Attributes:
        by_sample: root mean square of the difference over that of the reference about its mean, for each sample.
        by_channel: the same for each channel; empty where the output has none.
        changes: decisions (argmax) that differ, the most frequent first; ``None`` for outputs that decide nothing.
        worst: number in the data set of each sample that departs most -> its error, the worst first.
    """

    artifact: str
    output: str
    by_sample: tuple[float, ...]
    by_channel: tuple[float, ...]
    changes: tuple[Change, ...] | None
    worst: Mapping[int, float]


def output_errors(path: Path, report: ParityReport) -> tuple[OutputErrors, ...]:
    """Errors of every floating-point output, from the outputs that verification kept.

    Args:
        path: ``outputs.json``: the outputs of the first ``report.outputs_kept`` feeds, artifact by artifact.

    Raises:
        InputError: the file is none of Polygraphy's.
    """
    outputs = load_outputs(path)
    reference = outputs.get(report.reference, [])
    against = [each.artifact for each in report.comparisons if each.artifact in outputs]
    return tuple(
        found
        for artifact in against
        for name in (reference[0] if reference else ())
        if (found := _errors(artifact, name, reference, outputs[artifact], report)) is not None
    )


def _errors(
    artifact: str, name: str, reference: Sequence[Feed], given: Sequence[Feed], report: ParityReport
) -> OutputErrors | None:
    pairs = [(old[name], new[name]) for old, new in zip(reference, given, strict=False) if name in new]
    if not pairs or any(not _comparable(*pair) for pair in pairs):
        return None
    scale = _spread([old for old, _ in pairs])
    by_sample = [_rms(sample_new - sample_old) / scale for old, new in pairs for sample_old, sample_new in zip(
        old.astype(np.float64), new.astype(np.float64), strict=True)]  # fmt: skip
    worst = np.argsort(by_sample)[::-1][:5]
    return OutputErrors(
        artifact,
        name,
        tuple(by_sample),
        tuple(_by_channel(pairs, scale)),
        _changes(pairs, report),
        {report.number(int(index)): by_sample[index] for index in worst if by_sample[index] > 0},
    )


def _comparable(old: np.ndarray, new: np.ndarray) -> bool:
    """Whether both are finite real numbers of one shape with a first axis for samples."""
    floating = np.issubdtype(old.dtype, np.floating) and np.issubdtype(new.dtype, np.floating)
    whole = floating and old.ndim > 0 and old.shape == new.shape and old.size > 0
    return bool(whole and np.isfinite(old).all() and np.isfinite(new).all())


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _spread(values: Sequence[np.ndarray]) -> float:
    """The root mean square about the mean over all of them; 1 where they do not vary."""
    flat = np.concatenate([each.ravel() for each in values]).astype(np.float64)
    return float(flat.std()) or 1.0


def _by_channel(pairs: Sequence[tuple[np.ndarray, np.ndarray]], scale: float) -> Iterator[float]:
    sizes = {old.shape[_CHANNELS] if old.ndim > _CHANNELS else 0 for old, _ in pairs}
    size = sizes.pop() if len(sizes) == 1 else 0
    if not _FEWEST <= size <= _MOST_CHANNELS:
        return
    squares, count = np.zeros(size), 0
    for old, new in pairs:
        difference = np.moveaxis(new.astype(np.float64) - old, _CHANNELS, 0).reshape(size, -1)
        squares += np.square(difference).sum(axis=1)
        count += difference.shape[1]
    yield from np.sqrt(squares / count) / scale


def _changes(pairs: Sequence[tuple[np.ndarray, np.ndarray]], report: ParityReport) -> tuple[Change, ...] | None:
    if any(old.ndim != 2 or not _FEWEST <= old.shape[1] <= _MOST for old, _ in pairs):
        return None
    before, after = (np.concatenate([pair[side].argmax(axis=1) for pair in pairs]) for side in (0, 1))
    where = np.flatnonzero(before != after)
    moves = Counter((int(before[index]), int(after[index])) for index in where)
    return tuple(
        Change(
            _class(old, report.classes),
            _class(new, report.classes),
            tuple(report.number(int(i)) for i in where if (before[i], after[i]) == (old, new)),
        )
        for (old, new), _ in moves.most_common(_MOST_CHANGES)
    )


def _class(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else str(number)


def worst_samples(found: Sequence[OutputErrors]) -> Mapping[int, str]:
    """The samples to look at: those whose decision changed, then those that depart most; why, for each."""
    reasons: dict[int, str] = {}
    for each in found:
        for change in each.changes or ():
            for sample in change.samples:
                reasons.setdefault(sample, f"{each.artifact}: {change.old} became {change.new}")
    for each in found:
        for sample, error in each.worst.items():
            reasons.setdefault(sample, f"{each.artifact}: {each.output} departs by {error:.1%}")
    return reasons
