"""Quantization sensitivity: the noise at the outputs when one group of layers alone is lowered; ``sensitivity.json``.

The measure is noise power over signal power at the model's float outputs. It needs no labels. Rounding errors of
different layers are nearly uncorrelated, so powers nearly add up (Lin et al. 2016, arXiv:1511.06393; Pandey et al.
2023, arXiv:2302.05397): the noise of any choice of groups is predicted by the sum of theirs.
"""

from __future__ import annotations

from trtpipe.artifact import PublicRecord, Record
from trtpipe.summary import Summarized, Summary


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
    def noise_per_mac(self) -> float:
        """Noise for each multiply-accumulate that is gained by lowering it."""
        return self.noise / max(self.macs, 1)


class Sensitivity(Summarized, PublicRecord):
    """``sensitivity.json``: every group, in graph order.

    Attributes:
        precision: what groups are lowered to.
        data: what the samples are, in words; ``samples`` of them were used.
        groups: in graph order; ``ranked`` gives the most sensitive first.
        all_noise: noise with all groups lowered; over the sum of ``noise`` it tells how well powers add up.
        not_lowered: multiply-accumulates of weighted nodes that cannot be lowered.
    """

    precision: str
    data: str
    samples: int
    groups: tuple[GroupSensitivity, ...]
    all_noise: float
    not_lowered: int = 0

    @property
    def summary(self) -> Summary:
        """The most sensitive groups first."""
        rows = tuple((each.nodes[0], f"{each.noise:.3g}", f"{each.macs:,}") for each in self.ranked)
        return Summary(
            f"{len(self.groups)} groups of layers in {self.precision}, on {self.samples} samples of {self.data}",
            ("first node", "noise over signal", "MACs"),
            rows,
        )

    @property
    def ranked(self) -> tuple[GroupSensitivity, ...]:
        """By noise, largest first; of equal ones the first in the graph."""
        return tuple(sorted(self.groups, key=lambda group: -group.noise))

    @property
    def additivity(self) -> float:
        """Noise of all groups together over the sum of theirs; about 1 where powers add up."""
        total = sum(group.noise for group in self.groups)
        return self.all_noise / total if total else 1.0
