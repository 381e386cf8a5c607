"""What 16-bit precisions share: the extents lowering goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.artifact import Artifact
    from trtpipe.autocast.tensor_ranges import Extents

#: Lies beside statistics.npz where the precision has 16-bit operators.
EXTENTS = "extents.json"


def extents_in(artifact: Artifact | None) -> Extents | None:
    """What was measured beside the statistics, if real data was given."""
    from trtpipe.autocast.tensor_ranges import Extents

    if artifact is None or all(entry.name != EXTENTS for entry in artifact.files):
        return None
    return Extents.read(artifact.folder / EXTENTS)
