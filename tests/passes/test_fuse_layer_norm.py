from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import model, normal, run, with_outputs

from trtpipe.passes.fuse_layer_norm import FuseLayerNorm

GAMMA, BETA = normal(6, seed=1), normal(6, seed=2)
CONSTANTS = {"two": np.float32(2), "eps": np.float32(1e-5), "half": np.float32(-0.5), "gamma": GAMMA, "beta": BETA}
HEAD = "m = ReduceMean<keepdims=1>(x, axes) d = Sub(x, m) "
SPREAD = "v = ReduceMean<keepdims=1>(q, axes) e = Add(v, eps) "

#: how a layer normalization may be spelled, from x[N,4,6] to y
SPELLINGS = {
    "pow, div": HEAD + "q = Pow(d, two) " + SPREAD + "s = Sqrt(e) n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)",
    "mul, reciprocal": HEAD + "q = Mul(d, d) " + SPREAD
    + "s = Sqrt(e) r = Reciprocal(s) n = Mul(r, d) g = Mul(gamma, n) y = Add(beta, g)",
    "negative power": HEAD + "q = Mul(d, d) " + SPREAD
    + "s = Pow(e, half) n = Mul(d, s) g = Mul(n, gamma) y = Add(g, beta)",
    "mean taken twice": HEAD + "k = ReduceMean<keepdims=1>(x, axes) b = Sub(x, k) q = Pow(b, two) " + SPREAD
    + "s = Sqrt(e) n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)",
    "epsilon first": HEAD + "q = Pow(d, two) v = ReduceMean<keepdims=1>(q, axes) e = Add(eps, v) "
    "s = Sqrt(e) n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)",
}  # fmt: skip


def spelled(body: str, shape: str = "N,4,6", axes: tuple[int, ...] = (-1,), **constants: np.ndarray) -> onnx.ModelProto:
    return model(
        f"(float[{shape}] x) => (float[{shape}] y) {{ {body} }}", **{**CONSTANTS, "axes": np.array(axes), **constants}
    )


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def assert_same(found: onnx.ModelProto, wanted: onnx.ModelProto, x: np.ndarray) -> None:
    np.testing.assert_allclose(run(found, {"x": x})["y"], run(wanted, {"x": x})["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_becomes_one_node_of_the_same_function(apply, spelling):
    proto = spelled(SPELLINGS[spelling])
    fused, _ = apply(proto, FuseLayerNorm())
    [node] = fused.graph.node
    assert node.op_type == "LayerNormalization"
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        "axis": -1, "epsilon": pytest.approx(1e-5)
    }  # fmt: skip
    assert_same(fused, proto, normal(2, 4, 6, scale=3) + 5)


def test_without_scale_and_bias_the_extent_must_be_known(apply):
    body = HEAD + "q = Pow(d, two) " + SPREAD + "s = Sqrt(e) y = Div(d, s)"
    proto = spelled(body)
    fused, _ = apply(proto, FuseLayerNorm())
    assert ops(fused) == ["LayerNormalization"]
    assert_same(fused, proto, normal(2, 4, 6))
    unknown, _ = apply(spelled(body, shape="N,4,M"), FuseLayerNorm())
    assert "LayerNormalization" not in ops(unknown)


def test_several_axes_and_positive_ones(apply):
    wide = {"gamma": normal(4, 6, seed=1), "beta": normal(4, 6, seed=2)}
    proto = spelled(SPELLINGS["pow, div"], axes=(1, 2), **wide)
    fused, _ = apply(proto, FuseLayerNorm())
    assert fused.graph.node[0].attribute[0].i == -2
    assert_same(fused, proto, normal(3, 4, 6))


@pytest.mark.parametrize(
    "proto",
    [
        spelled(SPELLINGS["pow, div"], axes=(1,)),  # not the last axis
        spelled(SPELLINGS["pow, div"], two=np.float32(3)),
        spelled(SPELLINGS["pow, div"].replace("Sub(x, m)", "Sub(m, x)")),
        spelled(SPELLINGS["pow, div"].replace("Div(d, s)", "Div(x, s)")),
        spelled(SPELLINGS["pow, div"].replace("Pow(d, two)", "Pow(x, two)")),
    ],
)
def test_what_only_looks_like_one_stays(apply, proto):
    fused, _ = apply(proto, FuseLayerNorm())
    assert ops(fused) == ops(proto)


def test_below_opset_17_nothing_happens(apply):
    proto = model(
        "(float[N,6] x) => (float[N,6] y) { m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) "
        "v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) y = Mul(n, gamma) }",
        opset=16, eps=np.float32(1e-5), gamma=GAMMA,
    )  # fmt: skip
    assert ops(apply(proto, FuseLayerNorm())[0]) == ops(proto)


def test_inner_values_that_others_read_stay(apply):
    proto = spelled(SPELLINGS["pow, div"])
    proto.graph.output.append(onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, ["N", 4, 6]))
    fused, _ = apply(proto, FuseLayerNorm())
    assert sorted(ops(fused)) == ["LayerNormalization", "ReduceMean", "Sub"]
    x = normal(2, 4, 6)
    np.testing.assert_array_equal(run(fused, {"x": x})["d"], run(with_outputs(proto, ["d"]), {"x": x})["d"])


def test_a_gamma_that_varies_along_other_axes_is_no_scale(apply):
    proto = spelled(SPELLINGS["pow, div"], gamma=normal(4, 1))
    fused, _ = apply(proto, FuseLayerNorm())
    assert ops(fused) == ["LayerNormalization", "Mul", "Add"]
    assert_same(fused, proto, normal(2, 4, 6))
