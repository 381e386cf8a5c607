"""The statistics of a pass, kept where the model runs: what it gives is far larger than what is counted of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import to_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Feed

#: What a runner is asked to hand its outputs to.
TALLY = "trtpipe.calibration.tally:Tally"


class Tally:
    """A reducer: the statistics of the tensors ``names``, inputs of the model among them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._statistics = Statistics.empty(self._names)

    def take(self, feed: Feed, outputs: Feed) -> Feed:
        """Count one run; the outputs that are not to be counted.

        Raises:
            InputError: a tensor holds NaN or infinity; then nothing of the run was counted.
        """
        self._statistics.update({**feed, **outputs})
        return {name: values for name, values in outputs.items() if name not in self._statistics.tensors}

    def result(self) -> Feed:
        """The statistics since they were last asked for, as columns."""
        columns = to_columns(self._statistics)
        self._statistics = Statistics.empty(self._names)
        return columns
