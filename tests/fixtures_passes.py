"""What the tests of these packages share: from a protobuf through passes and back, checked by ONNX's own checker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import onnx
import onnx_ir as ir
import pytest
from half_formats import raised
from models import run

from trtpipe.autocast.convert import CastPrecision
from trtpipe.config.formats import find_format
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.reference.emulation import EmulateHalf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models import Feed

    from trtpipe.autocast.rules import HalfType
    from trtpipe.passes.decisions import NodeDecision
    from trtpipe.passes.graph_pass import GraphPass


class Apply(Protocol):
    def __call__(self, proto: onnx.ModelProto, *passes: GraphPass) -> tuple[onnx.ModelProto, list[NodeDecision]]: ...


@pytest.fixture
def apply() -> Apply:
    """Run InferTypes and ``passes``; the result must satisfy the checker, shape inference included."""

    def run(proto: onnx.ModelProto, *passes: GraphPass) -> tuple[onnx.ModelProto, list[NodeDecision]]:
        loaded = ir.serde.deserialize_model(proto)
        results = run_passes(loaded, [InferTypes(), *passes])
        rewritten = ir.serde.serialize_model(loaded)
        onnx.checker.check_model(rewritten, full_check=True)
        return rewritten, [decision for result in results for decision in result.decisions]

    return run


@pytest.fixture
def lower(apply: Apply) -> Callable[..., tuple[onnx.ModelProto, dict[str, NodeDecision]]]:
    """(lowered graph, decisions by node) of a graph cast to a 16-bit type."""

    def cast(proto: onnx.ModelProto, half: HalfType, keep: Sequence[str] = ()) -> tuple[Any, dict[str, NodeDecision]]:
        lowered, decisions = apply(raised(proto, half), CastPrecision(find_format(half), keep))
        return lowered, {decision.node: decision for decision in decisions}

    return cast


@pytest.fixture
def result(apply: Apply, lower: Callable[..., Any]) -> Callable[..., tuple[Feed, Feed]]:
    """Outputs of the lowered graph as 16-bit hardware would give them, and those of the float32 graph."""

    def compute(proto: onnx.ModelProto, half: HalfType, feed: Feed) -> tuple[Feed, Feed]:
        emulated, _ = apply(lower(proto, half)[0], EmulateHalf())
        return run(emulated, feed), run(proto, feed)

    return compute
