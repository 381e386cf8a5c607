"""Does 16-bit storage overflow? Watched on the emulated graph, because the CPU's own 16-bit kernels do not show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.reports import Overflow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.artifact import Feed
    from trtpipe.autocast.range_probes import Probe
    from trtpipe.config.formats import Format
    from trtpipe.isolation.reducer import Runner


class StorageWatch:
    """A runner of the emulated graph that keeps the largest finite value each tensor was to store.

    Args:
        runner: of a graph that ``watch_storage`` prepared.
        probes: its outputs that hold extremes.
        makers: tensor -> the node that computes it.
    """

    def __init__(self, runner: Runner, probes: Mapping[str, tuple[Probe, ...]], makers: Mapping[str, str]) -> None:
        self._runner = runner
        self.device, self.inputs = runner.device, runner.inputs
        self.outputs = tuple(spec for spec in runner.outputs if spec.name not in probes)
        self._probes = probes
        self._makers = makers
        self._largest = {name: np.zeros(len(each)) for name, each in probes.items()}

    def infer(self, feed: Feed) -> Feed:
        """The model's outputs for one feed."""
        found = dict(self._runner.infer(feed))
        for name, each in self._probes.items():
            rows = np.abs(np.asarray(found.pop(name), np.float64)).reshape(-1, len(each))
            rows = np.where(np.isfinite(rows), rows, 0.0)  # what is infinite already overflowed further up
            self._largest[name] = np.maximum(self._largest[name], rows.max(axis=0, initial=0.0))
        return found

    def overflows(self, half: Format) -> tuple[Overflow, ...]:
        """Tensors with values beyond the type, the largest first."""
        worst: dict[str, float] = {}
        for name, each in self._probes.items():
            for probe, value in zip(each, self._largest[name], strict=True):
                worst[probe.tensor] = max(worst.get(probe.tensor, 0.0), float(value))
        found = [(value, tensor) for tensor, value in worst.items() if value >= half.overflow]
        return tuple(
            Overflow(tensor=tensor, node=self._makers[tensor], largest=value)
            for value, tensor in sorted(found, key=lambda pair: (-pair[0], pair[1]))
        )
