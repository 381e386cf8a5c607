"""What the tests of this room share: from a protobuf through passes and back, checked by ONNX's own checker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import onnx
import onnx_ir as ir
import pytest

from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes

if TYPE_CHECKING:
    from trtpipe.passes.graph_pass import GraphPass, NodeDecision


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
