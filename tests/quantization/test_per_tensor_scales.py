"""Scales behind convolutions: the same arithmetic, and sums that cannot overflow float16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import conv_net, depthwise, model, normal, run, weights_of
from planning import Quantize

from trtpipe.autocast.convert import CastPrecision
from trtpipe.config.formats import FP16, INT8
from trtpipe.quantization.per_tensor_scales import SplitScales

HALF = (Quantize(INT8, {"x": 3.0, "r": 2.0, "f": 2.0, "a": 2.0}, (), "max", FP16), CastPrecision(FP16))


def two_convs(bias: bool = True, spread: float = 1.0) -> onnx.ModelProto:
    """Two convolutions whose channels differ by ``spread``."""
    scale = np.geomspace(1, spread, 8, dtype=np.float32)[:, None, None, None]
    b = ", b" if bias else ""
    return model(
        f"(float[N,4,6,6] x) => (float[N,8,6,6] y) {{ c = Conv<pads=[1,1,1,1]>(x, w{b}) a = Relu(c) y = Conv(a, v) }}",
        w=normal(8, 4, 3, 3) * scale, v=normal(8, 8, 1, 1), **({"b": normal(8)} if bias else {}),
    )  # fmt: skip


def quantizers(proto: onnx.ModelProto) -> list[np.ndarray]:
    """Scales of the constant weights of convolutions, in order."""
    constants = weights_of(proto)
    makers = {output: node for node in proto.graph.node for output in node.output}
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    return [constants[makers[conv.input[1]].input[1]] for conv in convs]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_the_answer_stays(apply, bias, spread):
    proto = two_convs(bias, spread)
    feed = {"x": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    before, after = apply(proto, *HALF)[0], apply(proto, *HALF, SplitScales())[0]
    wanted, found = run(before, feed)["y"], run(after, feed)["y"]
    assert np.abs(found - wanted).mean() <= 1e-3 * np.abs(wanted).mean(), "a few values fall into the next step"
    assert [scale.shape for scale in quantizers(before)] == [(8,), (8,)]
    assert [scale.shape for scale in quantizers(after)] == [(), ()]


def test_the_scales_multiply_to_what_they_were(apply):
    proto = two_convs(spread=1e-2)
    before, after = apply(proto, *HALF)[0], apply(proto, *HALF, SplitScales())[0]
    common = quantizers(after)[0]
    mantissa, _ = np.frexp(float(common))
    assert mantissa == 0.5, "a power of two, so that nothing is rounded"
    factor, _ = [value for name, value in weights_of(after).items() if name.endswith("channel_scale")]
    np.testing.assert_array_equal(factor.reshape(-1).astype(np.float64) * float(common), quantizers(before)[0])


@pytest.mark.parametrize("amax", [1.0, 100.0])
def test_no_sum_overflows_whatever_the_data(apply, amax):
    """Inputs of full scale with the signs of the weights give the largest sum there is."""
    proto = model(
        "(float[N,64,3,3] x) => (float[N,2,1,1] y) { c = Conv(x, w) y = Relu(c) }",
        w=np.stack([np.full((64, 3, 3), 0.5), np.full((64, 3, 3), 1e-2)]).astype(np.float32),
    )  # fmt: skip
    passes = (Quantize(INT8, {"x": amax}, (), "max", FP16), CastPrecision(FP16), SplitScales())
    lowered, _ = apply(proto, *passes)
    makers = {output: node for node in lowered.graph.node for output in node.output}
    [conv] = [node for node in lowered.graph.node if node.op_type == "Conv"]
    constants = weights_of(lowered)
    data, kernel = (makers[name] for name in conv.input)
    assert constants[kernel.input[1]].shape == (), "it was split"
    total = 128.0 * np.abs(constants[kernel.input[0]].astype(float)).sum(axis=(1, 2, 3)).max()
    assert total * float(constants[data.input[1]]) * float(constants[kernel.input[1]]) <= 2.0**15
    found = run(lowered, {"x": np.full((1, 64, 3, 3), amax, np.float32)})["y"].reshape(-1)
    np.testing.assert_allclose(found, [amax * 0.5 * 576, amax * 1e-2 * 576], rtol=5e-3)


@pytest.mark.parametrize("proto", [conv_net(), depthwise()], ids=["conv_net", "depthwise"])
def test_other_nets_still_check(apply, proto):
    apply(proto, *HALF, SplitScales())


def test_what_it_leaves_alone(apply):
    proto = two_convs()
    single = Quantize(INT8, {"x": 3.0, "a": 2.0})
    for passes in ((), (single,), (CastPrecision(FP16),)):
        untouched, split = apply(proto, *passes)[0], apply(proto, *passes, SplitScales())[0]
        assert split.graph == untouched.graph


def test_a_weight_shared_by_two_convolutions(apply):
    proto = model(
        "(float[N,4,6,6] x) => (float[N,4,6,6] y) { c = Conv(x, w) d = Relu(c) "
        "e = Conv(x, w) f = Sigmoid(e) y = Add(d, f) }",
        w=normal(4, 4, 1, 1),
    )  # fmt: skip
    feed = {"x": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    before, after = apply(proto, *HALF)[0], apply(proto, *HALF, SplitScales())[0]
    assert [scale.shape for scale in quantizers(after)] == [(), ()]
    np.testing.assert_allclose(run(after, feed)["y"], run(before, feed)["y"], atol=1e-2)
