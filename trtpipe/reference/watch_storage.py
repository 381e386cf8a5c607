"""Make visible what is about to be stored in 16 bits, in a graph whose storage is emulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.autocast.range_probes import add_probes
from trtpipe.config.formats import HALF_FORMATS
from trtpipe.passes.expose import expose_too
from trtpipe.passes.graph_pass import node_label

if TYPE_CHECKING:
    from trtpipe.autocast.range_probes import Probe

_HALF = tuple(int(ir.DataType[form.onnx]) for form in HALF_FORMATS)


def watch_storage(model: ir.Model) -> tuple[dict[str, tuple[Probe, ...]], dict[str, str]]:
    """Add outputs to ``model``, in place, that hold the extremes of every float32 value just before it is rounded.

    Args:
        model: what ``EmulateHalf`` made.

    Returns:
        The outputs and what they hold; and for every tensor among that the name of the node that computes it.
    """
    stored: dict[ir.Value, None] = {}
    for node in model.graph.all_nodes():
        target = node.attributes.get("to") if node.op_type == "Cast" else None
        source = node.inputs[0] if target is not None and target.as_int() in _HALF else None
        if source is not None and source.dtype == ir.DataType.FLOAT and source.const_value is None:
            stored[source] = None
    nodes = {str(value.name): value.producer() for value in stored}
    makers = {name: name if node is None else node_label(node) for name, node in nodes.items()}
    probes = add_probes(model, stored)
    expose_too(model, tuple(probes))
    return probes, makers
