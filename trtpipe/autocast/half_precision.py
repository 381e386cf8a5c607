"""What 16-bit precisions share: the extents lowering goes by, and which nodes ``best`` leaves in 16 bits."""

from __future__ import annotations

from glob import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.artifact import Artifact
    from trtpipe.autocast.tensor_ranges import Extents

#: Lies beside statistics.npz where the precision has 16-bit operators.
EXTENTS = "extents.json"


def prepare_half(model: ir.Model) -> None:
    """What comes before both measuring and lowering to 16 bits, in place: masks that the types can hold."""
    from trtpipe.autocast.mask_bounds import BoundMasks
    from trtpipe.passes.graph_pass import run_passes

    run_passes(model, [BoundMasks()])


def extents_in(artifact: Artifact | None) -> Extents | None:
    """What was measured beside the statistics, if real data was given."""
    from trtpipe.autocast.tensor_ranges import Extents

    if artifact is None or all(entry.name != EXTENTS for entry in artifact.files):
        return None
    return Extents.read(artifact.folder / EXTENTS)


def left_in_half(
    model: ir.Model, int8_nodes: tuple[str, ...] | None, wanted: frozenset[str] | None = None
) -> list[str]:
    """Patterns of all nodes that ``best`` leaves in 16 bits: none of ``int8_nodes`` names them, or they are not among
    ``wanted``. Other precisions, for which ``int8_nodes`` is ``None``, leave none.
    """
    from trtpipe.passes.graph_pass import node_label
    from trtpipe.passes.node_names import pattern_of

    if int8_nodes is None:
        return []
    labels = [node_label(node) for node in model.graph.all_nodes()]
    allowed = {label for label in labels if pattern_of(label, int8_nodes) is not None}
    taken = allowed if wanted is None else allowed & wanted
    return [escape(label) for label in labels if label not in taken]
