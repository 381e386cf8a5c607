"""What 16-bit precisions share: the extents lowering goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.artifact import Artifact
    from trtpipe.autocast.tensor_ranges import Extents

#: Lies beside statistics.npz where the precision has 16-bit operators.
EXTENTS = "extents.json"


def prepare_half(model: ir.Model) -> None:
    """What comes before both measuring and lowering to 16 bits, in place: masks that the types can hold."""
    from trtpipe.autocast.mask_bounds import HALF_FORM
    from trtpipe.passes.graph_pass import run_passes

    run_passes(model, HALF_FORM)


def extents_in(artifact: Artifact | None) -> Extents | None:
    """What was measured beside the statistics, if real data was given."""
    from trtpipe.autocast.tensor_ranges import Extents

    if artifact is None or all(entry.name != EXTENTS for entry in artifact.files):
        return None
    return Extents.read(artifact.folder / EXTENTS)
