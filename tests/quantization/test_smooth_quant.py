from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import conv_net, depthwise, feed_for, model, normal, residual, run, transposed, with_outputs
from planning import settings

from trtpipe.calibration.corrections import Smoothing, packed
from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import run_passes
from trtpipe.quantization.plan import plan
from trtpipe.quantization.smooth_quant import Smooth, smooth_groups, smoothing_factors

if TYPE_CHECKING:
    from collections.abc import Callable

LAYER_NORM = "LayerNormalization(x, g, o)"
#: what makes the activation, whether a multiplication has to be inserted
PRODUCTS = {
    "normalization": (f"h = {LAYER_NORM}", False),
    "normalization with another reader": (f"h = {LAYER_NORM} side = Tanh(h)", True),
    "reshaped normalization": (f"n = {LAYER_NORM} h = Reshape(n, rows)", False),
    "product, bias, Relu": ("p = MatMul(x, first) s = Add(o, p) h = Relu(s)", False),
    "transposed Gemm, LeakyRelu": ("p = Gemm<transB=1>(x, first, o) h = LeakyRelu<alpha=0.1>(p)", False),
    "GELU": ("p = MatMul(x, first) h = Gelu(p)", True),
    "sigmoid gate": ("p = MatMul(x, first) q = Sigmoid(p) h = Mul(p, q)", True),
}


def product(head: str) -> onnx.ModelProto:
    """[N,32] through ``head`` to two products that both read ``h``."""
    more = ", float[N,32] side" if "side" in head else ""
    return model(
        f"(float[N,32] x) => (float[N,24] y, float[N,16] z{more}) "
        f"{{ {head} y = MatMul(h, a) z = Gemm<transB=1>(h, b) }}",
        g=1 + np.abs(normal(32, seed=1)),
        o=normal(32, seed=2),
        first=normal(32, 32, seed=3),
        a=normal(32, 24, seed=4),
        b=normal(16, 32, seed=5),
        rows=np.array([-1, 32], np.int64),
    )


def smoothing(factors: np.ndarray, *, inserted: bool) -> Smoothing:
    return Smoothing(factors=packed(factors), inserted=inserted, amax=1)


def smoothed(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str], list[str]]:
    """The model with all groups divided by uneven factors, what was renamed, and the names of the groups."""
    loaded = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    clean_up(loaded)
    points = plan(loaded, settings()).points
    groups = smooth_groups(loaded, points)
    wanted = {
        group.name: smoothing(np.exp(normal(group.channels, seed=7)), inserted=group.fold is None)
        for group in groups
    }  # fmt: skip
    smooth = Smooth(wanted, points)
    run_passes(loaded, [smooth])
    rewritten = ir.serde.serialize_model(loaded)
    onnx.checker.check_model(rewritten, full_check=True)
    inserted = {name for name in smooth.smoothed if wanted[name].inserted}
    renamed = {name: f"{name}_smoothed" if name in inserted else name for name in smooth.smoothed}
    return rewritten, renamed, [group.name for group in groups]


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_compute_what_they_did(name: str) -> None:
    head, inserted = PRODUCTS[name]
    proto = product(head)
    rewritten, renamed, groups = smoothed(proto)
    assert "h" in groups
    assert renamed["h"] == ("h_smoothed" if inserted else "h")
    feed = feed_for(proto)
    before = run(with_outputs(proto, ["h", "y", "z"]), feed)
    after = run(with_outputs(rewritten, [renamed["h"], "y", "z"]), feed)
    for output in ("y", "z"):
        np.testing.assert_allclose(after[output], before[output], rtol=1e-4, atol=1e-4)
    factors = np.exp(normal(32, seed=7))
    np.testing.assert_allclose(after[renamed["h"]] * factors, before["h"], rtol=1e-4, atol=1e-5)


def wide_net() -> onnx.ModelProto:
    return model(
        "(float[N,3,8,8] x) => (float[N,20,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, a, o) r = Relu(c) "
        "d = Conv<group=16,pads=[1,1,1,1]>(r, b) y = Conv(d, e) }",
        a=normal(16, 3, 3, 3),
        o=normal(16),
        b=normal(16, 1, 3, 3),
        e=normal(20, 16, 1, 1),
    )


def chain(between: str) -> onnx.ModelProto:
    """A convolution, what is ``between``, and grouped convolutions of 2 and 4 outputs for 4 and 1 inputs of a group."""
    return model(
        f"(float[N,3,8,8] x) => (float[N,32,k,k] y) {{ c = Conv<pads=[1,1,1,1]>(x, a, o) {between} "
        "d = Conv<group=4>(r, b) p = PRelu(d, slope) y = Conv<group=8>(p, e) }",
        a=normal(16, 3, 3, 3),
        o=normal(16),
        slope=normal(8, 1, 1, seed=1),
        b=normal(8, 4, 3, 3, seed=2),
        e=normal(32, 1, 1, 1, seed=3),
        zero=np.float32(0),
        six=np.float32(6),
    )


BETWEEN = {
    "PRelu": ("r = PRelu(c, steep)", False),
    "Relu and pool": ("s = Relu(c) r = MaxPool<kernel_shape=[2,2]>(s)", False),
    "SiLU": ("s = Sigmoid(c) r = Mul(c, s)", True),
    "pool of means": ("s = Relu(c) r = AveragePool<kernel_shape=[2,2]>(s)", None),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_chains_of_grouped_convolutions(name: str) -> None:
    between, inserted = BETWEEN[name]
    proto = chain(between)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(16, 1, 1, seed=9), "steep"))
    rewritten, renamed, _ = smoothed(proto)
    wanted = {} if inserted is None else {"r": "r_smoothed" if inserted else "r"}
    assert renamed == {**wanted, "p": "p"}
    feed = feed_for(proto)
    np.testing.assert_allclose(run(rewritten, feed)["y"], run(proto, feed)["y"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [wide_net, conv_net, depthwise, transposed, residual])
def test_convolutions_compute_what_they_did(make: Callable[[], onnx.ModelProto]) -> None:
    proto = make()
    rewritten, renamed, _ = smoothed(proto)
    more = len(rewritten.graph.node) - len(proto.graph.node)
    assert more == sum(old != new for old, new in renamed.items())
    feed = feed_for(proto)
    for name, value in run(proto, feed).items():
        np.testing.assert_allclose(run(rewritten, feed)[name], value, rtol=1e-3, atol=1e-3)


def test_a_residual_sum_stays_quantized() -> None:
    """A multiplication behind it would come between the sum and those who read it in 8 bits."""
    proto = model(
        "(float[N,3,8,8] x) => (float[N,16,8,8] y) { c = Conv(x, a) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, b) "
        "s = Add(d, r) t = Relu(s) y = Conv<pads=[1,1,1,1]>(t, b) }",
        a=normal(16, 3, 1, 1),
        b=normal(16, 16, 3, 3, seed=1),
    )
    _, _, groups = smoothed(proto)
    assert not groups


def test_a_chain_of_convolutions_folds() -> None:
    _, renamed, _ = smoothed(wide_net())
    assert renamed.keys() == {"r", "d"}


@pytest.mark.parametrize(
    "graph",
    [
        "c = Conv<pads=[1,1,1,1]>(x, a) r = InstanceNormalization(c, one, nil) y = Conv<pads=[1,1,1,1]>(r, b)",
        "c = Conv<pads=[1,1,1,1]>(x, a) r = Conv<pads=[1,1,1,1]>(c, b) y = Add(c, r)",  # another reader
        "c = Conv<pads=[1,1,1,1]>(x, a) k = Relu(c) p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(k) "
        "q = Conv<pads=[1,1,1,1]>(p, b) r = Conv<pads=[1,1,1,1]>(k, b) y = Concat<axis=1>(q, r)",  # pooling reads, too
    ],
)
def test_what_cannot_be_folded_stays(graph: str) -> None:
    proto = model(
        f"(float[1,16,6,6] x) => (float[1,C,6,6] y) {{ {graph} }}",
        a=normal(16, 16, 3, 3),
        b=normal(16, 16, 3, 3, seed=1),
        one=np.ones(16, np.float32),
        nil=np.zeros(16, np.float32),
    )
    _, renamed, groups = smoothed(proto)
    assert not renamed
    assert not groups


def clipped(clip: str) -> tuple[onnx.ModelProto, ir.Model]:
    """A convolution, a Clip, and one that reads it: as a file, and in the plain form."""
    proto = chain(f"r = {clip}")
    for name, value in (("low", -2), ("high", 3), ("odd", 1)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    loaded = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    clean_up(loaded)
    return proto, loaded


def test_a_clip_goes_on_doing_what_it_did() -> None:
    proto, loaded = clipped("Clip(c, zero, six)")
    feed = {name: value * np.float32(0.3) for name, value in feed_for(proto).items()}
    before = run(with_outputs(proto, ["r", "y"]), feed)
    seen = before["r"].max(axis=(0, 2, 3))
    assert seen.min() < 6 == seen.max(), "the Clip has to saturate some channels only"
    points = plan(loaded, settings()).points
    group = next(each for each in smooth_groups(loaded, points) if each.name == "r")
    factors = group.within_limits(np.exp(normal(16, seed=7)), seen)
    assert (factors[seen == 6] == 1).all()
    assert factors.min() < 0.9
    run_passes(loaded, [Smooth({"r": smoothing(factors, inserted=False)}, points)])
    after = run(with_outputs(ir.serde.serialize_model(loaded), ["r", "y"]), feed)
    np.testing.assert_allclose(after["r"] * factors.reshape(-1, 1, 1), before["r"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("clip", "limit"),
    [
        ("Clip(c, zero, six)", 6),
        ("Clip(c, zero)", np.inf),
        ("Clip(c, low, high)", 2),
        ("Clip(c, odd, six)", None),  # it makes 1 of 0
    ],
)
def test_limits_of_clips(clip: str, limit: float | None) -> None:
    _, loaded = clipped(clip)
    found = {group.name: group.fold for group in smooth_groups(loaded, plan(loaded, settings()).points)}
    fold = found["r"]
    assert (None if fold is None else fold.limit) == limit


def test_factors_even_out_and_keep_the_largest_magnitude() -> None:
    a, w = np.array([100.0, 1, 0.1], np.float32), np.array([0.5, 0.5, 0.5], np.float32)
    half, whole = smoothing_factors(a, w, 0.5), smoothing_factors(a, w, 1.0)
    assert half.dtype == np.float32
    np.testing.assert_allclose(a / whole, 100, rtol=1e-5)  # all unevenness gone
    np.testing.assert_allclose(a / half, [100, 10, 10**0.5], rtol=1e-5)  # half of its logarithm
    flat = smoothing_factors(np.zeros(3, np.float32), w, 0.5)
    assert np.isfinite(flat).all()
    assert (flat > 0).all()


def test_factors_of_another_model_are_ignored() -> None:
    loaded = ir.serde.deserialize_model(product(PRODUCTS["GELU"][0]))
    clean_up(loaded)
    wide, narrow = np.full(32, 2, np.float32), np.ones(7, np.float32)
    for wrong in (smoothing(narrow, inserted=True), smoothing(wide, inserted=False)):
        smooth = Smooth({"h": wrong}, plan(loaded, settings()).points)
        (result,) = run_passes(loaded, [smooth])
        assert not result.modified
        assert not smooth.smoothed
