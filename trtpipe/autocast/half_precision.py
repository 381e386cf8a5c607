"""What 16-bit precisions share: the tensor ranges that lowering uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.artifact import Artifact
    from trtpipe.autocast.tensor_ranges import TensorRanges

#: Lies beside statistics.npz where the precision has 16-bit operators.
TENSOR_RANGES = "tensor_ranges.json"


def tensor_ranges_in(artifact: Artifact | None) -> TensorRanges | None:
    """What was measured beside the statistics, if real data was given."""
    from trtpipe.autocast.tensor_ranges import TensorRanges

    if artifact is None or all(entry.name != TENSOR_RANGES for entry in artifact.files):
        return None
    return TensorRanges.read(artifact.folder / TENSOR_RANGES)
