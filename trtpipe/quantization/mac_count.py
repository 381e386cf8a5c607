"""How much every node computes at the typical shapes, counted in a child process: shape inference can crash."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, Report, limits_for
from trtpipe.preflight import folder_size

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import Shapes


class CountRequest(Record):
    """The graph, and the typical shapes of its inputs."""

    model: str
    shapes: dict[str, tuple[int, ...]]


class Counts(Record):
    """Multiply-accumulates of the nodes that have some, in the order of the graph; ``None`` for the others."""

    macs: tuple[str | None, ...]


def count_work(model: ir.Model, simplified: Path, shapes: Shapes, runtime: Settings) -> None:
    """Write the counts on the nodes of ``model``, which is ``simplified`` as ``clean_up`` leaves it.

    Args:
        shapes: the typical shapes of the inputs.

    Raises:
        WorkerError: shape inference crashes, or takes too long or too much memory.
    """
    from trtpipe.passes.macs import MACS

    counts = call_forked(
        "trtpipe.quantization.mac_count:count_task",
        CountRequest(model=str(simplified), shapes=shapes),
        Counts,
        limits=limits_for(runtime, work=LIGHT, size=folder_size(simplified.parent)),
        what=f"counting the work of {simplified.name}",
        reads=(simplified.parent,),
    )
    for node, macs in zip(model.graph.all_nodes(), counts.macs, strict=True):
        if macs is not None:
            node.metadata_props[MACS] = macs


def count_task(request: CountRequest, report: Report) -> Counts:
    """Infer shapes and count (in the child process)."""
    from trtpipe.passes.clean_up import load_clean
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.macs import MACS
    from trtpipe.quantization.count_work import CountWork

    model = load_clean(Path(request.model))
    run_passes(model, [CountWork(request.shapes)])
    return Counts(macs=tuple(node.metadata_props.get(MACS) for node in model.graph.all_nodes()))
