"""Masks of the lowest float, in the forms exporters write them; onnxruntime says what they compute."""

from __future__ import annotations

import numpy as np
import pytest
from models import FLOAT_MAX, model, normal, run, weights_of

from trtpipe.autocast.mask_bounds import BoundMasks

LOWEST = np.float32(-FLOAT_MAX)
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
#: how a graph masks its scores s[3,4], given an int64 mask m of 0 and 1 -> the constants it needs
FORMS = {
    "f = Cast<to=1>(m) i = Sub(one, f) b = Mul(i, low) a = Add(s, b) y = Softmax(a)": {"one": np.float32(1)},
    "c = Cast<to=9>(m) b = Where(c, zero, low) u = Unsqueeze(b, axis) q = Squeeze(u, axis) a = Add(s, q) "
    "y = Softmax(a)": {"zero": np.float32(0), "axis": np.array([0])},
    "c = Cast<to=9>(m) a = Where(c, s, low) y = Softmax(a)": {},
    "c = Cast<to=9>(m) b = Where(c, zero, low) a = Add(s, b) d = Add(a, b) y = Softmax(d)": {"zero": np.float32(0)},
}
SIGNATURE = "(float[3,4] s, int64[3,4] m) => (float[3,4] y)"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lowest", [LOWEST, np.float32(-np.inf)])
def test_a_mask_becomes_finite_and_masks_as_before(apply, form, lowest):
    if "Mul" in form and np.isinf(lowest):
        pytest.skip("0 times infinity is no mask")
    proto = model(f"{SIGNATURE} {{ {form} }}", low=lowest, **FORMS[form])
    bounded, _ = apply(proto, BoundMasks())
    assert weights_of(bounded)["low_bounded"] == -6144
    assert "low" not in weights_of(bounded)
    feed = {"s": normal(3, 4), "m": MASK}
    np.testing.assert_array_equal(run(bounded, feed)["y"], run(proto, feed)["y"])


def test_a_causal_mask(apply):
    causal = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    proto = model("(float[4,4] s) => (float[4,4] y) { a = Add(s, low) y = Softmax(a) }", low=causal)
    bounded, _ = apply(proto, BoundMasks())
    np.testing.assert_array_equal(weights_of(bounded)["low_bounded"], np.triu(np.full((4, 4), -6144), 1))
    s = normal(4, 4)
    np.testing.assert_array_equal(run(bounded, {"s": s})["y"], run(proto, {"s": s})["y"])


def test_a_mask_made_at_run_time(apply):
    proto = model(
        "(float[N,4] s) => (float[N,4] y) { h = Shape(s) f = ConstantOfShape<value=float[1] {-3.4e38}>(h) "
        "t = Trilu<upper=1>(f, one) a = Add(s, t) y = Softmax(a) }",
        one=np.int64(1),
    )
    bounded, _ = apply(proto, BoundMasks())
    [fill] = [node.attribute[0].t for node in bounded.graph.node if node.op_type == "ConstantOfShape"]
    assert np.frombuffer(fill.raw_data, np.float32).tolist() == [-6144]
    s = normal(4, 4)
    np.testing.assert_array_equal(run(bounded, {"s": s})["y"], run(proto, {"s": s})["y"])


@pytest.mark.parametrize(
    "use",
    [
        "a = Add(s, low) y = LogSoftmax(a)",  # shows the value itself
        "y = Max(s, low)",
        "a = Mul(s, low) y = Softmax(a)",  # by a number that is no integer
        "a = Add(s, low) b = Add(a, low) c = Add(b, low) y = Softmax(c)",  # three times is too often
        "a = Add(s, low) b = Mul(a, scale) y = Softmax(b)",
        "a = Add(s, low) e = Equal(a, low) f = Cast<to=1>(e) y = Softmax(f)",
    ],
)
def test_whatever_is_no_mask_stays(apply, use):
    proto = model(f"(float[3,4] s) => (float[3,4] y) {{ {use} }}", low=LOWEST, scale=np.float32(1e-3))
    assert weights_of(apply(proto, BoundMasks())[0])["low"] == LOWEST


def test_ordinary_constants_stay(apply):
    proto = model(
        "(float[3,4] s) => (float[3,4] y) { a = Add(s, b) y = Softmax(a) }", b=np.float32([-1e4, 0, 2, -1e38])
    )
    assert "b" in weights_of(apply(proto, BoundMasks())[0])
