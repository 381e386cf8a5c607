from __future__ import annotations

import numpy as np
import onnx_ir as ir
from models import model, normal

from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.logits import show_logits


def shown(text: str, **weights: np.ndarray) -> list[str | None]:
    """The outputs that are compared."""
    loaded = ir.serde.deserialize_model(model(text, **weights))
    run_passes(loaded, [InferTypes()])
    show_logits(loaded)
    return [value.name for value in loaded.graph.outputs]


def test_saturating_outputs_give_way_to_their_inputs() -> None:
    found = shown(
        "(float[2,4] x) => (float[2,4] p, float[2,4] s, float[2,4] y) "
        "{ h = MatMul(x, w) p = Softmax(h) s = Sigmoid(x) y = Relu(h) }",
        w=normal(4, 4),
    )
    assert found == ["h", "s", "y"]


def test_parts_of_a_whole_are_compared_one_by_one() -> None:
    """A detector: boxes and scores of two scales, the boxes in pixels."""
    found = shown(
        "(float[1,8,4] a, float[1,8,2] b) => (float[1,6,5] y) { "
        "ha = MatMul(w, a) ba = Relu(ha) sa = MatMul(v, a) pa = Sigmoid(sa) ja = Concat<axis=1>(ba, pa) "
        "hb = MatMul(w, b) bb = Relu(hb) sb = MatMul(v, b) pb = Sigmoid(sb) jb = Concat<axis=1>(bb, pb) "
        "j = Concat<axis=2>(ja, jb) t = Transpose<perm=[0, 2, 1]>(j) y = Identity(t) }",
        w=normal(4, 8), v=normal(1, 8),
    )  # fmt: skip
    assert found == ["ba", "sa", "bb", "sb"]


def test_what_is_moved_but_made_in_one_piece_stays() -> None:
    assert shown("(float[2,4] x) => (float[4,2] y) { h = MatMul(x, w) y = Transpose(h) }", w=normal(4, 4)) == ["y"]


def test_constant_parts_and_given_ones_say_nothing() -> None:
    text = "(float[2,4] x) => (float[2,12] y) { h = MatMul(x, w) y = Concat<axis=1>(c, h, x) }"
    assert shown(text, w=normal(4, 4), c=normal(2, 4)) == ["h"]


def test_choices_give_way_to_what_they_are_made_by() -> None:
    found = shown(
        "(float[2,4] x) => (int64[2,1] best, int64[2,1] least, int64[2,1] same, float[2,4] r) "
        "{ h = MatMul(x, w) p = Softmax(h) best = ArgMax<axis=1>(p) k = Neg(h) least = ArgMin<axis=1>(k) "
        "r = Relu(h) same = ArgMax<axis=1>(r) }",
        w=normal(4, 4),
    )
    assert found == ["h", "k", "same", "r"]
