"""The corners of the optimization profiles, walked in a child before anything long begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.dynamic.corners import Complaint, CornersReply, CornersRequest
from trtpipe.errors import InputError
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, limits_for

if TYPE_CHECKING:
    from trtpipe.artifact import Artifact
    from trtpipe.config.profile import OptimizationProfile
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress

_CORNERS = {"min": "smallest", "opt": "typical", "max": "largest"}


def check_corners(
    graph: Artifact, profiles: tuple[OptimizationProfile, ...], runtime: Settings, progress: Progress
) -> None:
    """See whether the graph works at the shapes that engines are about to be built for.

    Raises:
        InputError: it does not; the message names the input, its dimension and the node.
        WorkerError: ONNX's shape inference crashes on the graph, or takes too long or too much memory.
    """
    progress.advance("shapes", 0, None)
    reply = call_forked(
        "trtpipe.dynamic.corners:corners_task",
        CornersRequest(model=str(graph.path), profiles=profiles),
        CornersReply,
        limits=limits_for(runtime, work=LIGHT, size=graph.size),
        what=f"checking shapes of {graph.path.name}",
        reads=(graph.folder,),
    )
    if reply.complaint is not None:
        raise InputError(_words(reply.complaint, len(profiles)), _remedy(reply.complaint))


def _words(complaint: Complaint, profiles: int) -> str:
    which = f"optimization profile {complaint.profile + 1}: " if profiles > 1 else ""
    at = " and ".join(f"dimension {place.axis} of input {place.input!r} is {place.size}" for place in complaint.places)
    return (
        f"{which}the model cannot work at the {_CORNERS[complaint.corner]} shapes: "
        f"node {complaint.node!r} ({complaint.op}) {complaint.reason}" + (f"; {at} there" if at else "")
    )


def _remedy(complaint: Complaint) -> str:
    corner = _CORNERS[complaint.corner]
    if len(complaint.places) > 1:
        inputs = " and ".join(f"{place.input!r}" for place in complaint.places)
        return f"give these dimensions of {inputs} the same {corner} size: the model ties them together"
    if complaint.works is None:
        return f"correct the {corner} shapes, or export the model for them"
    place = complaint.places[0]
    bound = "at most" if complaint.works < place.size else "at least"
    return (
        f"make dimension {place.axis} of {place.input!r} {bound} {complaint.works} in --{complaint.corner}-shapes, "
        "or export the model for that size"
    )
