from __future__ import annotations

import onnx_ir as ir
from models import model, normal

from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.logits import show_logits


def test_saturating_outputs_give_way_to_their_inputs() -> None:
    proto = model(
        "(float[2,4] x) => (float[2,4] p, float[2,4] s, float[2,4] y) "
        "{ h = MatMul(x, w) p = Softmax(h) s = Sigmoid(x) y = Relu(h) }",
        w=normal(4, 4),
    )
    loaded = ir.serde.deserialize_model(proto)
    run_passes(loaded, [InferTypes()])
    show_logits(loaded)
    assert [value.name for value in loaded.graph.outputs] == ["h", "s", "y"]


def test_choices_give_way_to_what_they_are_made_by() -> None:
    proto = model(
        "(float[2,4] x) => (int64[2,1] best, int64[2,1] least, int64[2,1] same, float[2,4] r) "
        "{ h = MatMul(x, w) p = Softmax(h) best = ArgMax<axis=1>(p) k = Neg(h) least = ArgMin<axis=1>(k) "
        "r = Relu(h) same = ArgMax<axis=1>(r) }",
        w=normal(4, 4),
    )
    loaded = ir.serde.deserialize_model(proto)
    run_passes(loaded, [InferTypes()])
    show_logits(loaded)
    assert [value.name for value in loaded.graph.outputs] == ["h", "k", "same", "r"]
