"""Does the model work at the smallest, the typical and the largest shapes of every optimization profile?

TensorRT builds engines for shapes at which the model cannot work, without a word: sequences longer than the table of
positions, sizes of two inputs that have to be equal and are not. Here every corner is walked (``walk``), in a child and
before anything long begins, and what does not fit is put down to the dimension that brings it about (``cause_of``).
"""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from trtpipe.artifact import Record
from trtpipe.backends.base import load_backend
from trtpipe.config.profile import ShapeRange
from trtpipe.config.settings import Settings
from trtpipe.config.shapes import gives_values
from trtpipe.errors import InputError, TrtpipeError
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, Report, limits_for
from trtpipe.preflight.onnx_io import dtype_name, named_dimension

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.artifact import Artifact
    from trtpipe.config.profile import OptimizationProfile
    from trtpipe.dynamic.walk import Shape, Walker
    from trtpipe.progress import Progress

Corner: TypeAlias = Literal["min", "opt", "max"]

#: (input, axis)
_Where: TypeAlias = "tuple[str, int]"

#: The search for a cause ends after this time: the node alone is named then.
_SECONDS = 20.0
#: A complaint is put to the test only where the model's tensors up to it have fewer elements than this.
_MOST_ELEMENTS = 1 << 28
#: Corners as messages name them, in the order they are walked.
_CORNERS: dict[Corner, str] = {"opt": "typical", "min": "smallest", "max": "largest"}


class CornersRequest(Record):
    """Walk ``model`` at the corners of ``profiles``."""

    model: str
    profiles: tuple[dict[str, ShapeRange], ...]


class Place(Record):
    """One dimension of an input, and its size at the corner."""

    input: str
    axis: int
    size: int


class Complaint(Record):
    """A corner at which the model cannot work.

    Attributes:
        profile: its index.
        node, op, reason: the node that fails, and why.
        places: the dimensions that bring it about; empty where no cause was found, two where they contradict each
            other.
        works: the nearest size at which the model works, where one dimension is the cause.
    """

    profile: int
    corner: Corner
    node: str
    op: str
    reason: str
    places: tuple[Place, ...] = ()
    works: int | None = None


class CornersReply(Record):
    """The first complaint, if there is any."""

    complaint: Complaint | None = None


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
        "trtpipe.dynamic.check_corners:corners_task",
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


def corners_task(request: CornersRequest, report: Report) -> CornersReply:
    """Walk all corners (in the worker process)."""
    import onnx

    from trtpipe.dynamic.walk import Walker

    walker = Walker(onnx.load(request.model, load_external_data=False))
    for index, profile in enumerate(request.profiles):
        dims = {name: given for name, given in profile.items() if not _holds_values(walker, name, given)}
        for corner in _CORNERS:
            shapes = {name: _at(given, corner) for name, given in dims.items()}
            contents = _contents(walker, profile, dims, corner)
            found = walker.misfit(shapes, contents)
            if found is None or _runs(request.model, walker, shapes, contents):
                continue
            bisected, works = cause_of(walker, shapes, contents, dims)
            complaint = Complaint(
                profile=index,
                corner=corner,
                node=found.node,
                op=found.op,
                reason=found.reason,
                places=tuple(Place(input=name, axis=axis, size=shapes[name][axis]) for name, axis in bisected),
                works=works,
            )
            return CornersReply(complaint=complaint)
    return CornersReply()


def _at(given: ShapeRange, corner: Corner) -> tuple[int, ...]:
    """One bound of a range."""
    return {"min": given.min, "opt": given.opt, "max": given.max}[corner]


def _holds_values(walker: Walker, name: str, given: ShapeRange) -> bool:
    """Whether a range is one of values."""
    if name not in walker.inputs:
        return False
    kind = walker.inputs[name].tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    return gives_values(dtype_name(kind.elem_type), dims, given.max)


def _contents(
    walker: Walker, profile: Mapping[str, ShapeRange], dims: Mapping[str, ShapeRange], corner: Corner
) -> dict[str, np.ndarray]:
    """The contents of the inputs whose ranges are of values."""
    import onnx

    found = {}
    for name in profile.keys() - dims.keys():
        kind = walker.inputs[name].tensor_type
        numbers = np.array(_at(profile[name], corner), onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        found[name] = numbers if kind.shape.dim else numbers.reshape(())
    return found


def _runs(
    model: str, walker: Walker, shapes: Mapping[str, tuple[int, ...]], contents: Mapping[str, np.ndarray]
) -> bool:
    """Whether onnxruntime proves the walk wrong: what runs is never refused."""
    import onnx

    if walker.elements > _MOST_ELEMENTS:
        return False
    feed = dict(contents)
    for name, kind in walker.inputs.items():
        dims = shapes.get(name) or tuple(max(dim.dim_value, 1) for dim in kind.tensor_type.shape.dim)
        if name not in feed:
            feed[name] = np.zeros(dims, onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
    try:
        with load_backend("onnxruntime").open(Path(model), Settings.in_child()) as runner:
            runner.infer(feed)
    except TrtpipeError:
        return False
    return True


def cause_of(
    walker: Walker,
    shapes: Mapping[str, Shape],
    contents: Mapping[str, np.ndarray],
    ranges: Mapping[str, ShapeRange],
) -> tuple[tuple[_Where, ...], int | None]:
    """Why ``walker`` complains at ``shapes``: the dimensions causing it, and the nearest size at which the model works.

    None where the search found none; two, without a size, where they contradict each other.

    One dimension is the cause if the model works with it at another size, which neither makes it equal to another one
    nor is 1 (that broadcasts); the nearest such size is found by bisection. Two contradict each other if the model
    works once they are equal. Dimensions of one symbolic name move together.
    """
    deadline = time.monotonic() + _SECONDS
    groups = _groups(walker, ranges)

    def works(**sizes: int) -> bool:
        return walker.misfit(_with(shapes, groups, sizes), contents) is None

    def size(name: str) -> int:
        place, axis = groups[name][0]
        return shapes[place][axis]

    for name in groups:
        taken = {1, *(size(other) for other in groups)}
        others = _others(ranges, groups[name][0], size(name)) - taken
        for other in sorted(others, key=lambda other: abs(other - size(name))):
            if time.monotonic() > deadline:
                return (), None
            if works(**{name: other}):
                good, bad = other, size(name)
                while abs(bad - good) > 1:
                    middle = (good + bad) // 2
                    good, bad = (middle, bad) if works(**{name: middle}) else (good, middle)
                return (groups[name][0],), good
    for first, second in combinations(groups, 2):
        if time.monotonic() > deadline:
            return (), None
        if size(first) != size(second) and (works(**{first: size(second)}) or works(**{second: size(first)})):
            return (groups[first][0], groups[second][0]), None
    return (), None


def _groups(walker: Walker, ranges: Mapping[str, ShapeRange]) -> dict[str, list[_Where]]:
    """The open dimensions, by symbolic name where they have one."""
    found: dict[str, list[_Where]] = {}
    for name, given in ranges.items():
        dims = walker.inputs[name].tensor_type.shape.dim if name in walker.inputs else ()
        for axis, dim in enumerate(dims):
            if named_dimension(dim.dim_value) is None and axis < len(given.opt):
                found.setdefault(str(named_dimension(dim.dim_param) or f"{name}.{axis}"), []).append((name, axis))
    return found


def _others(ranges: Mapping[str, ShapeRange], place: _Where, size: int) -> set[int]:
    """Other sizes to try: those of the range, and some beyond it."""
    name, axis = place
    bounds = {ranges[name].min[axis], ranges[name].opt[axis], ranges[name].max[axis]}
    return bounds | {max(size // 2, 1), max(size // 4, 1), 2 * size, 4 * size}


def _with(
    shapes: Mapping[str, Shape], groups: Mapping[str, list[_Where]], sizes: Mapping[str, int]
) -> dict[str, Shape]:
    found = {name: list(shape) for name, shape in shapes.items()}
    for group, size in sizes.items():
        for name, axis in groups[group]:
            found[name][axis] = size
    return {name: tuple(shape) for name, shape in found.items()}
