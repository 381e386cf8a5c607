"""The 16-bit types, as the tests of casting see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.passes.decisions import NodeDecision

HALF_FORMATS = ["float16", "bfloat16"]
#: relative spacing of the numbers
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def raised(proto: onnx.ModelProto, half: str) -> onnx.ModelProto:
    """The model at an opset that knows the type: bfloat16 convolutions exist since opset 22."""
    return onnx.version_converter.convert_version(proto, 22) if half == "bfloat16" else proto


def kept(decisions: Mapping[str, NodeDecision]) -> dict[str, str]:
    """Nodes that are kept in float32, and why."""
    return {name: decision.reason for name, decision in decisions.items() if decision.precision == "float32"}
