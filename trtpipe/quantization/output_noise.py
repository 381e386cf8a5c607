"""How far outputs are from the float32 graph's: noise power over signal power. No labels are needed."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.alignment import fillings
from trtpipe.progress import track
from trtpipe.reference.reference_outputs import run_every

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from trtpipe.artifact import Feed
    from trtpipe.progress import Progress
    from trtpipe.quantization.simulation_graph import Partition
    from trtpipe.quantization.simulator import SimulatorSession

#: Share of the mean power over all feeds that every feed is taken to have, so that silence does not decide.
_FAINT = 1e-3
#: An offset that all values share tells nothing: signal is what departs from it. But this share of an output's power
#: always counts, so that one which hardly ever changes does not decide.
_OFFSET = 0.01
#: What a result that is not finite, or has another shape, counts as: all noise, a million times over.
_LOST = 1e6
#: In dB, noise below this share of the signal (-120 dB) is none.
_FLOOR = 1e-12
#: Bytes of values that are held: half of the graph's weights, which are there twice, but between these bounds.
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 256 << 20


class OutputNoise:
    """Compares float outputs with those of the float32 graph.

    Signal is what departs from the output's mean over all feeds: scores of a detector that all lie near -11 and tell
    objects by departing from that would hide any noise otherwise. So would what fills an output, such as -1e9 in masked
    logits, which does not count.

    Args:
        expected: float32 outputs, feed by feed.
        names: the outputs that count; ``None`` for all.
    """

    def __init__(self, expected: Sequence[Feed], names: Sequence[str] | None = None) -> None:
        self._expected = expected
        floats = [name for name, value in expected[0].items() if value.dtype.kind == "f"] if expected else []
        wanted = [name for name in floats if names is None or name in names]
        filled = {name: [fillings(outputs[name]) for outputs in expected] for name in wanted}
        self._filled = {name: masks for name, masks in filled.items() if any(mask.any() for mask in masks)}
        powers = {
            name: _signal([self._counted(name, outputs[name], index) for index, outputs in enumerate(expected)])
            for name in wanted
        }
        self._signal = {
            name: np.maximum(power, _FAINT * power.mean()) for name, power in powers.items() if 0 < power.sum() < np.inf
        }

    @property
    def feeds(self) -> int:
        """How many there are."""
        return len(self._expected)

    @property
    def informative(self) -> bool:
        """Whether any output tells something: holds finite floats that differ from 0."""
        return bool(self._signal)

    def shares(self, index: int, found: Feed) -> np.ndarray:
        """float64[outputs]: noise over signal power of feed ``index``."""
        return np.array([self._share(name, found[name], index) for name in self._signal])

    def decibels(self, results: Iterable[Feed]) -> np.ndarray:
        """float64[feeds]: the same in dB for the results of all feeds, the mean over outputs."""
        return in_decibels(self.every(results))

    def every(self, results: Iterable[Feed]) -> np.ndarray:
        """float64[feeds, outputs]: noise over signal power of all feeds."""
        return np.array([self.shares(index, found) for index, found in enumerate(results)])

    def _share(self, name: str, found: np.ndarray, index: int) -> float:
        expected = self._expected[index][name]
        if found.shape != expected.shape:
            return _LOST
        found, expected = (self._counted(name, side, index) for side in (found, expected))
        with np.errstate(all="ignore"):
            noise = _power(np.where(found == expected, 0, found - expected)) / self._signal[name][index]
        return float(noise) if noise < _LOST else _LOST  # NaN too

    def _counted(self, name: str, value: np.ndarray, index: int) -> np.ndarray:
        """The values of an output of feed ``index`` where the reference is not filled."""
        return value[~self._filled[name][index]] if name in self._filled else value


def in_decibels(shares: np.ndarray) -> np.ndarray:
    """float64[feeds]: noise over signal of all feeds, [feeds, outputs], in dB, the mean over outputs."""
    decibels: np.ndarray = (10 * np.log10(np.maximum(shares, _FLOOR))).mean(axis=1)
    return decibels


def _signal(values: Sequence[np.ndarray]) -> np.ndarray:
    """float64[feeds]: the power of an output about its mean over all feeds, but at least ``_OFFSET`` of its power."""
    count = sum(value.size for value in values)
    with np.errstate(invalid="ignore"):  # infinities give NaN: such an output says nothing
        mean = sum(float(value.sum(dtype=np.float64)) for value in values) / max(count, 1)
        return np.array([np.maximum(_power(value - mean), _OFFSET * _power(value)) for value in values])


def _power(value: np.ndarray) -> float:
    return float(np.sum(np.square(value, dtype=np.float64)))


def noise_alone(
    session: SimulatorSession, measure: OutputNoise, feeds: list[Feed], progress: Progress, phase: str
) -> list[float]:
    """The noise of each group by itself; for groups behind a partition only what comes behind it is run."""
    partitions, stored = _stored(session, feeds)
    groups = session.groups
    found: list[float] = []
    for index in track(progress, phase, range(len(groups)), len(groups)):
        partition = next(
            (partition for partition in reversed(partitions) if partition.position < groups[index].first), None
        )
        found.append(
            float(noise_of(session, (index,), measure, feeds if partition is None else stored, partition).mean())
        )
    return found


def _stored(session: SimulatorSession, feeds: list[Feed]) -> tuple[tuple[Partition, ...], list[Feed]]:
    """The partitions whose values fit into memory, and the feeds with these values in float32."""
    values = tuple(dict.fromkeys(name for partition in session.partitions for name in partition.values))
    if not values:
        return (), feeds
    results = run_every(session.set((), runs=len(feeds), show=values), feeds, session.scales(session.plan.limits))
    first = next(results)
    partitions, held = [], 0
    most = min(max(session.weight_bytes // 2, _LEAST_BYTES), _MOST_BYTES)
    for partition in session.partitions:
        size = len(feeds) * sum(first[name].nbytes for name in partition.values)
        if held + size <= most:
            partitions.append(partition)
            held += size
    names = {name for partition in partitions for name in partition.values}
    if not names:
        return (), feeds
    every = zip(feeds, chain([first], results), strict=True)
    return tuple(partitions), [{**feed, **{name: found[name] for name in names}} for feed, found in every]


def noise_of(
    session: SimulatorSession,
    groups: Collection[int],
    measure: OutputNoise,
    feeds: list[Feed],
    begin: Partition | None = None,
) -> np.ndarray:
    """float64[feeds]: noise over signal power with these groups lowered, the mean over outputs."""
    scales = session.scales(session.plan.limits)
    results = run_every(session.set(groups, runs=len(feeds), begin=begin), feeds, scales)
    return np.array([measure.shares(index, found).mean() for index, found in enumerate(results)])
