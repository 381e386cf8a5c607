"""Which opset a model is read by that states none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.preflight.model import Malformed

if TYPE_CHECKING:
    from collections.abc import Collection

#: The version of the format since which a model states its opsets.
OPSETS_SINCE = 3
#: Operators that compute something else since some opset, although nodes look the same.
_CHANGED = frozenset({"Softmax", "LogSoftmax", "Hardmax", "Resize", "Upsample", "Dropout", "BatchNormalization"})


def assumed_opset(ir_version: int, operators: Collection[str]) -> int:
    """The newest opset of ONNX's own operators that came with a version of the format.

    Args:
        ir_version: of the model.
        operators: all that it uses.

    Raises:
        Malformed: what the model computes depends on the opset.
    """
    import onnx

    if doubtful := sorted(_CHANGED.intersection(operators)):
        raise Malformed(f"it states no opset, on which depends what {doubtful[0]} computes")
    versions = onnx.helper.OP_SET_ID_VERSION_MAP.items()  # (domain, opset) -> the version of the format it came with
    found = [opset for (domain, opset), version in versions if domain == "ai.onnx" and version <= ir_version]
    return max(found, default=1)
