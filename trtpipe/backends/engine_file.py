"""The header of an engine file (a "plan"), read without any NVIDIA library.

The layout is not documented. Known, in little endian: plans of both TensorRT flavors begin with four magic bytes and
have the builder's version in bytes 24 to 27. Plans of TensorRT-RTX 1.5, 1.6 and 1.7 also have the file size at 16, a
mask of GPU targets at 32 and the size of the weights at 56.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from trtpipe.artifact import Record
from trtpipe.errors import BuildError, InputError

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC: dict[bytes, Literal["tensorrt", "tensorrt-rtx"]] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
#: Builders whose engines have a header.
FLAVORS = frozenset(_MAGIC.values())
_HEADER = struct.Struct("<4s4xQQ4B4sQQQQ")
#: The targets of TensorRT-RTX, and the bit of each in a plan's mask.
RTX_TARGETS = {"sm75": 1, "sm80": 2, "sm86": 4, "sm89": 8, "sm120": 16, "sm121": 32}
_AND_LATER = 64
#: The last version whose header was checked.
_KNOWN_RTX = (1, 7)


class PlanHeader(Record):
    """The first 64 bytes of a plan; ``None`` for what they do not contain, and of versions that are not known yet.

    Attributes:
        flavor, version: of the builder, for example ``tensorrt-rtx`` ``1.7.1.116``.
        targets: the targets it was built for.
        and_later: whether it also claims to run on later GPUs.
        size_ok: whether the file is as long as the header says.
        weight_bytes: size of the weights.
    """

    flavor: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    targets: tuple[str, ...] | None = None
    and_later: bool = False
    size_ok: bool | None = None
    weight_bytes: int | None = None


def read_header(path: Path) -> PlanHeader:
    """Read the header of the plan at ``path``.

    Raises:
        InputError: the file cannot be read, or is no plan.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "give an existing plan file") from error
    flavor = _MAGIC.get(head[:4])
    if flavor is None or len(head) < _HEADER.size:
        raise InputError(
            f"{path}: no TensorRT engine (its first bytes are {head[:4]!r})",
            "give a plan as trtpipe or trtexec writes it",
        )
    _, _, total, *numbers, _, mask, _, _, weights = _HEADER.unpack(head)
    version = ".".join(map(str, numbers))
    if flavor == "tensorrt" or tuple(numbers[:2]) > _KNOWN_RTX:
        return PlanHeader(flavor=flavor, version=version)
    return PlanHeader(
        flavor=flavor,
        version=version,
        targets=tuple(name for name, bit in RTX_TARGETS.items() if mask & bit),
        and_later=bool(mask & _AND_LATER),
        size_ok=total == size,
        weight_bytes=weights,
    )


def check_rtx_plan(path: Path, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Check that a plan just written by TensorRT-RTX is complete and for ``targets`` only.

    Returns:
        A warning if the header of a newer TensorRT-RTX could not be checked; empty otherwise.

    Raises:
        BuildError: the plan is truncated, or for other targets.
    """
    try:
        header = read_header(path)
    except InputError as error:
        raise BuildError(f"TensorRT-RTX wrote no valid plan: {error.message}", "run the same build again") from error
    if tuple(int(part) for part in header.version.split(".")[:2]) > _KNOWN_RTX:
        return (f"the plan's header was not checked: TensorRT-RTX {header.version} is newer than this trtpipe",)
    if not header.size_ok:
        raise BuildError(
            f"TensorRT-RTX wrote a plan for {', '.join(targets)} that is truncated",
            "check the free disk space, then build again",
        )
    if set(header.targets or ()) != set(targets) or header.and_later:
        built = ", ".join(header.targets or ()) or "nothing"
        raise BuildError(
            f"the plan asked for {', '.join(targets)} was built for {built}", "report this as a bug of trtpipe"
        )
    return ()
