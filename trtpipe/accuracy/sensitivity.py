"""How much each group of layers harms the outputs when it alone is lowered: ``sensitivity.json``.

The measure is noise power over signal power at the model's float outputs. It needs no labels. Rounding errors of
different layers are nearly uncorrelated, so powers nearly add up (Lin et al. 2016, arXiv:1511.06393; Pandey et al.
2023, arXiv:2302.05397): the noise of any choice of groups is predicted by the sum of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Record
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.backends.base import Feed, Runner

#: Share of the mean power over all feeds that every feed is taken to have, so that silence does not decide.
_FAINT = 1e-3
#: What a result that is not finite, or has another shape, counts as: all noise, a million times over.
_LOST = 1e6


class GroupSensitivity(Record):
    """One group of nodes that flip together.

    Attributes:
        name: the first node's.
        nodes: all of them, as ``keep`` patterns name them.
        operators: of the nodes.
        macs: multiply-accumulates of one sample.
        noise: noise over signal power at the outputs when this group alone is lowered.
        half_noise: the same in float16; ``None`` if it was not measured.
    """

    name: str
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    macs: int
    noise: float
    half_noise: float | None = None

    @property
    def harm(self) -> float:
        """Noise for each multiply-accumulate that is gained by lowering it."""
        return self.noise / max(self.macs, 1)


class Sensitivity(Record):
    """``sensitivity.json``: every group, in graph order.

    Attributes:
        precision: what groups are lowered to.
        data: what the samples are, in words; ``samples`` of them were used.
        groups: in graph order; ``ranked`` gives the most harmful first.
        all_noise: noise with all groups lowered; over the sum of ``noise`` it tells how well powers add up.
        never: multiply-accumulates of weighted nodes that cannot be lowered.
    """

    precision: str
    data: str
    samples: int
    groups: tuple[GroupSensitivity, ...]
    all_noise: float
    never: int = 0

    @property
    def ranked(self) -> tuple[GroupSensitivity, ...]:
        """By noise, largest first; of equal ones the first in the graph."""
        return tuple(sorted(self.groups, key=lambda group: -group.noise))

    @property
    def additivity(self) -> float:
        """Noise of all groups together over the sum of theirs; about 1 where powers add up."""
        total = sum(group.noise for group in self.groups)
        return self.all_noise / total if total else 1.0


class OutputNoise:
    """Compares outputs with those of the float32 graph.

    Args:
        expected: float32 outputs, feed by feed.

    Raises:
        InputError: no output holds floats that differ from 0.
    """

    def __init__(self, expected: Sequence[Feed]) -> None:
        self._expected = [floats(outputs) for outputs in expected]
        powers = {
            name: np.array([_power(outputs[name]) for outputs in self._expected])
            for name in (self._expected[0] if self._expected else {})
        }
        self._signal = {
            name: np.maximum(power, _FAINT * power.mean()) for name, power in powers.items() if 0 < power.sum() < np.inf
        }
        if not self._signal:
            raise InputError(
                "sensitivity is judged by the model's float outputs, and it has none that differ from 0",
                "give another model, or data that reaches its outputs",
            )

    def __call__(self, runner: Runner, feeds: Sequence[Feed]) -> float:
        """Noise over signal power, the mean over feeds and outputs."""
        wanted = {spec.name for spec in runner.inputs}
        shares = []
        for index, feed in enumerate(feeds):
            found = runner.infer({name: value for name, value in feed.items() if name in wanted})
            shares += [self._share(name, found[name], index) for name in self._signal]
        return float(np.mean(shares))

    def _share(self, name: str, found: np.ndarray, index: int) -> float:
        expected = self._expected[index][name]
        if found.shape != expected.shape:
            return _LOST
        with np.errstate(all="ignore"):
            noise = _power(np.where(found == expected, 0, found - expected)) / self._signal[name][index]
        return float(noise) if noise < _LOST else _LOST  # NaN too


def floats(outputs: Feed) -> Feed:
    """The outputs that hold floats."""
    return {name: value for name, value in outputs.items() if value.dtype.kind == "f"}


def _power(value: np.ndarray) -> float:
    return float(np.sum(np.square(value, dtype=np.float64)))
