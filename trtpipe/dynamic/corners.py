"""Does the model work at the smallest, the typical and the largest shapes of every optimization profile?

TensorRT builds engines for shapes at which the model cannot work, without a word: sequences longer than the table of
positions, sizes of two inputs that have to be equal and are not. Here every corner is walked (``walk``), and what does
not fit is put down to the dimension that brings it about (``blame``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from trtpipe.artifact import Record
from trtpipe.backends.base import load_backend
from trtpipe.config.profile import ShapeRange
from trtpipe.config.settings import Settings
from trtpipe.config.shapes import gives_values
from trtpipe.errors import TrtpipeError
from trtpipe.isolation.worker import Report
from trtpipe.preflight.onnx_io import dtype_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.dynamic.walk import Walker

Corner: TypeAlias = Literal["min", "opt", "max"]

#: A complaint is put to the test only where the model's tensors up to it have fewer elements than this.
_MOST_ELEMENTS = 1 << 28


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
        works: the nearest size at which the model works, where one dimension is to blame.
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


def corners_task(request: CornersRequest, report: Report) -> CornersReply:
    """Walk all corners (in the worker process)."""
    import onnx

    from trtpipe.dynamic.blame import Cause, cause_of
    from trtpipe.dynamic.walk import Walker

    walker = Walker(onnx.load(request.model, load_external_data=False))
    corners: tuple[Corner, ...] = ("opt", "min", "max")
    for index, profile in enumerate(request.profiles):
        dims = {name: given for name, given in profile.items() if not _holds_values(walker, name, given)}
        for corner in corners:
            shapes = {name: _at(given, corner) for name, given in dims.items()}
            contents = _contents(walker, profile, dims, corner)
            found = walker.misfit(shapes, contents)
            if found is None or _runs(request.model, walker, shapes, contents):
                continue
            cause: Cause = cause_of(walker, shapes, contents, dims)
            complaint = Complaint(
                profile=index,
                corner=corner,
                node=found.node,
                op=found.op,
                reason=found.reason,
                places=tuple(Place(input=name, axis=axis, size=shapes[name][axis]) for name, axis in cause.places),
                works=cause.works,
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
