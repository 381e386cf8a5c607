"""The extents that lowering to 16 bits goes by: made beside the statistics, and found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.calibration.extents import Extents
    from trtpipe.job import Inputs

#: Lies beside statistics.npz where the precision has 16-bit operators.
EXTENTS = "extents.json"


def prepare_half(model: ir.Model) -> None:
    """What comes before both measuring and lowering to 16 bits, in place: masks that the types can hold."""
    from trtpipe.passes.bound_masks import BoundMasks
    from trtpipe.passes.graph_pass import run_passes

    run_passes(model, [BoundMasks()])


def extents_in(inputs: Inputs) -> Extents | None:
    """What was measured, if real data was given."""
    from trtpipe.calibration.extents import Extents

    artifact = inputs.artifacts.get("statistics")
    if artifact is None or all(entry.name != EXTENTS for entry in artifact.files):
        return None
    return Extents.read(artifact.folder / EXTENTS)
