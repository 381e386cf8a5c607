"""Values far from 0, and what a difference or a normalization leaves of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import model, normal

from trtpipe.autocast.convert import CastPrecision
from trtpipe.autocast.tensor_ranges import TensorRange, TensorRanges
from trtpipe.config.formats import FP16
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes

FAR, LEFT = TensorRange(minimum=2.96, maximum=3.04), TensorRange(minimum=-0.04, maximum=0.04)


def kept(graph: str, opset: int = 18, weights: dict | None = None, **tensor_ranges: TensorRange) -> dict[str, str]:
    """Nodes that are kept in float32, and why; tensors not named were seen between -1 and 1."""
    loaded = ir.serde.deserialize_model(model(graph, opset=opset, **(weights or {})))
    run_passes(loaded, [InferTypes()])
    names = {str(value.name) for node in loaded.graph.all_nodes() for value in (*node.inputs, *node.outputs) if value}
    known = {name: TensorRange(minimum=-1, maximum=1, smallest=0.5, terms=1) for name in names} | tensor_ranges
    [result] = run_passes(loaded, [CastPrecision(FP16, (), TensorRanges(samples=8, tensors=known))])
    return {decision.node: decision.reason for decision in result.decisions if decision.precision == "float32"}


CONSTANTS = {"mu": np.float32(3), "sd": np.float32(0.01), "w": normal(4, 4)}


def test_a_mean_taken_from_an_input_and_the_division_behind_it():
    found = kept("(float[N,4] x) => (float[N,4] y) { s = Sub(x, mu) d = Div(s, sd) h = MatMul(d, w) y = Relu(h) }",
                 weights=CONSTANTS, x=FAR, s=LEFT)  # fmt: skip
    assert set(found) == {"sub_0", "div_1"}
    assert "no more than 0.04 is left" in found["sub_0"]


def test_what_moves_or_scales_the_input_before_is_kept_too():
    found = kept(
        "(float[N,4] x) => (float[4,N] y) { t = Transpose(x) q = Div(t, sd) s = Sub(q, mu) y = Relu(s) }",
        weights={"mu": np.float32(300), "sd": np.float32(0.01)},
        x=FAR, q=TensorRange(minimum=296, maximum=304), s=TensorRange(minimum=-4, maximum=4),
    )  # fmt: skip
    assert set(found) == {"transpose_0", "div_1", "sub_2"}
    assert found["div_1"].startswith("leads to Sub 'sub_2'")


def test_a_mean_that_the_graph_computes():
    found = kept(
        "(float[N,4] x) => (float[N,4] y) { m = ReduceMean(x, axes) s = Sub(x, m) h = MatMul(s, w) y = Relu(h) }",
        weights={"axes": np.array([1]), "w": normal(4, 4)}, x=FAR,
        m=TensorRange(minimum=2.9, maximum=3.1, terms=12), s=LEFT,
    )  # fmt: skip
    assert set(found) == {"reducemean_0", "sub_1"}


@pytest.mark.parametrize(("span", "is_kept"), [(0.05, True), (2.0, False)])
def test_a_normalization_of_an_input(span, is_kept):
    found = kept(
        "(float[N,4] x) => (float[N,4] y) { a = LayerNormalization(x, g, b) h = MatMul(a, w) y = Relu(h) }",
        weights={"g": np.ones(4, np.float32), "b": np.zeros(4, np.float32), "w": normal(4, 4)},
        x=TensorRange(minimum=8 - span, maximum=8 + span),
    )  # fmt: skip
    assert ("layernormalization_0" in found) is is_kept


def test_behind_a_layer_nothing_is_won():
    found = kept("(float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) s = Sub(h, mu) y = Relu(s) }",
                 weights=CONSTANTS, h=FAR, s=LEFT)  # fmt: skip
    assert found == {}


def test_a_difference_that_leaves_enough():
    found = kept("(float[N,4] x) => (float[N,4] y) { s = Sub(x, mu) d = Div(s, sd) y = Relu(d) }", weights=CONSTANTS,
                 x=TensorRange(minimum=2, maximum=4), s=TensorRange(minimum=-1, maximum=1))  # fmt: skip
    assert found == {}


#: layers that take a mean of 600 away and multiply by 2
LAYERS = {
    "norm": "y = BatchNormalization<epsilon=0.0>(x, one, nil, mu, var)",
    "depthwise": "y = Conv<group=4>(x, twice, minus)",
    "product": "f = Flatten(x) y = Gemm<transB=1>(f, eye, minus)",
}
WEIGHTS = {
    "one": np.ones(4, np.float32), "nil": np.zeros(4, np.float32), "mu": np.full(4, 600, np.float32),
    "var": np.full(4, 0.25, np.float32), "twice": np.full((4, 1, 1, 1), 2, np.float32),
    "minus": np.full(4, -1200, np.float32), "eye": 2 * np.eye(4, dtype=np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("least", "most", "left", "is_kept"), [(598, 602, 4, True), (-2, 2, 4, False), (0, 255, 510, False)]
)
def test_a_layer_whose_bias_takes_the_mean_away(name, least, most, left, is_kept):
    shape = "float[1,4]" if name == "product" else "float[1,4,1,1]"
    used = {key: value for key, value in WEIGHTS.items() if key in LAYERS[name]}
    found = kept(
        f"(float[1,4,1,1] x) => ({shape} z) {{ {LAYERS[name]} z = Relu(y) }}", weights=used,
        x=TensorRange(minimum=least, maximum=most), f=TensorRange(minimum=least, maximum=most),
        y=TensorRange(minimum=-left, maximum=left), z=TensorRange(minimum=0, maximum=left),
    )  # fmt: skip
    assert any("is left" in reason for reason in found.values()) is is_kept


def test_the_first_layer_of_a_classifier_is_not_kept():
    """Of pixels from 0 to 255, normalized by what was folded into it: many terms, whose rounding is independent."""
    weights = {"k": normal(16, 3, 7, 7) / np.float32(12 * 58), "b": normal(16)}
    found = kept(
        "(float[1,3,32,32] x) => (float[1,16,26,26] z) { y = Conv(x, k, b) z = Relu(y) }", weights=weights,
        x=TensorRange(minimum=0, maximum=255), y=TensorRange(minimum=-4, maximum=4),
    )  # fmt: skip
    assert found == {}
