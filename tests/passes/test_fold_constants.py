from __future__ import annotations

import numpy as np
import pytest
from models import feed_for, model, normal, run, weights_of

from trtpipe.passes import fold_constants
from trtpipe.passes.fold_constants import FoldConstants


@pytest.mark.parametrize(
    ("proto", "left"),
    [
        (model("(float[N,4] x) => (float[N,6] y) { i = Identity(w) t = Transpose(i) y = MatMul(x, t) }",
               w=normal(6, 4)),
         ["MatMul"]),
        (model("(float[N,4] x) => (float[N,6] y) { t = Reshape(w, s) y = MatMul(x, t) }",
               w=normal(24), s=np.array([4, 6])), ["MatMul"]),
        (model("(float[N,4] x) => (float[N,4] y) { c = Cast<to=1>(h) y = Mul(x, c) }",
               h=normal(4).astype(np.float16)), ["Mul"]),
        (model("(float[N,4] x) => (float[N,2] y) { a, b = Split<num_outputs=2>(w) m = Add(a, b) y = MatMul(x, m) }",
               w=normal(8, 2)), ["MatMul"]),
        (model("(float[N,4] x) => (float[N,6] y) { t = Transpose(w) y = MatMul(x, t) }", w=normal(6, 4), opset=12),
         ["MatMul"]),
    ],
)  # fmt: skip
def test_chains_of_constants_become_constants(apply, proto, left):
    folded, _ = apply(proto, FoldConstants())
    assert [node.op_type for node in folded.graph.node] == left
    feed = feed_for(proto)
    np.testing.assert_array_equal(run(folded, feed)["y"], run(proto, feed)["y"])


def test_a_result_much_larger_than_its_inputs_is_not_stored(apply, monkeypatch):
    proto = model("(float[N,500] x) => (float[N,500] y) { e = Expand(one, s) y = MatMul(x, e) }",
                  one=np.float32(1), s=np.array([500, 500]))  # fmt: skip
    assert [node.op_type for node in apply(proto, FoldConstants())[0].graph.node] == ["Expand", "MatMul"]
    monkeypatch.setattr(fold_constants, "_MOST_GROWTH", 1 << 24)
    assert [node.op_type for node in apply(proto, FoldConstants())[0].graph.node] == ["MatMul"]


def test_outputs_and_random_values_stay(apply):
    proto = model("(float[N,2] x) => (float[2] y, float[N,2] z) { y = Neg(w) r = RandomNormalLike(w) z = Add(x, r) }",
                  w=normal(2))  # fmt: skip
    folded, _ = apply(proto, FoldConstants())
    assert [node.op_type for node in folded.graph.node] == ["Neg", "RandomNormalLike", "Add"]


def test_a_shared_constant_stays_for_its_other_reader(apply):
    proto = model("(float[N,4] x) => (float[N,4] y, float[N,4] z) {"
                  "t = Transpose(w) y = MatMul(x, t) z = MatMul(x, w) }",
                  w=normal(4, 4))  # fmt: skip
    folded, _ = apply(proto, FoldConstants())
    np.testing.assert_array_equal(weights_of(folded)["w"], normal(4, 4))
    np.testing.assert_array_equal(weights_of(folded)["t_folded"], normal(4, 4).T)


def test_a_node_that_cannot_be_computed_stays(apply):
    proto = model("(float[N,4] x) => (float[N,4] y) { g = Gather(w, i) y = Add(x, g) }",
                  w=normal(2, 4), i=np.array(0))  # fmt: skip
    proto.graph.initializer[1].CopyFrom(type(proto.graph.initializer[1])(
        name="i", data_type=7, dims=[], raw_data=np.array(9).tobytes()))  # fmt: skip
    assert [node.op_type for node in apply(proto, FoldConstants())[0].graph.node] == ["Gather", "Add"]
