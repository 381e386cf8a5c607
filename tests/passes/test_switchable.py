from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import FLOAT_MAX, branches, conv_net, embedding, feed_for, model, normal, run

from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.insert_qdq import InsertQDQ
from trtpipe.passes.placement import place
from trtpipe.passes.switchable import make_switchable, show_logits
from trtpipe.passes.weights import quantise_weight


@pytest.mark.parametrize("make", [conv_net, branches, embedding])
@pytest.mark.parametrize(("precision", "largest"), [("int8", 127), ("fp8", 448)])
def test_it_computes_what_lowering_computes(make, precision, largest) -> None:  # type: ignore[no-untyped-def]
    proto = make()
    loaded = ir.serde.deserialize_model(proto)
    run_passes(loaded, [InferTypes()])
    tensors = place(loaded).tensors
    amax = {name: 0.5 + index for index, name in enumerate(tensors)}
    run_passes(loaded, [InsertQDQ(precision, amax)])
    lowered = ir.serde.serialize_model(loaded)
    other = ir.serde.deserialize_model(proto)
    scales = make_switchable(other, precision, dict.fromkeys(tensors, 77.0), (), "max")
    assert set(scales) == set(tensors)
    switchable = ir.serde.serialize_model(other)
    for seed in range(3):
        feed = feed_for(proto, seed)
        fed = {scale: np.asarray(np.float32(amax[name]) / np.float32(largest)) for name, scale in scales.items()}
        for name, value in run(lowered, feed).items():
            np.testing.assert_array_equal(run(switchable, {**feed, **fed})[name], value)


def test_tensors_with_one_scale_have_one_input() -> None:
    proto = model(
        "(float[1,4,4,4] x) => (float[1,4,2,2] y, float[1,4,4,4] z) { m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) "
        "y = Conv(m, w) z = Conv(x, w) }",
        w=normal(4, 4, 1, 1),
    )  # fmt: skip
    loaded = ir.serde.deserialize_model(proto)
    scales = make_switchable(loaded, "int8", {"x": 1.0, "m": 1.0}, (), "max")
    assert set(scales) == {"x", "m"}
    assert len(set(scales.values())) == 1
    assert len(loaded.graph.inputs) == 2


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


class TestWeightsByLeastError:
    def error(self, weight: np.ndarray, axis: int | None, precision: str, method: str) -> np.ndarray:
        quantised, scale = quantise_weight(weight, axis, precision, method)  # type: ignore[arg-type]
        assert quantised.shape == weight.shape
        shaped = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        return np.sum((quantised.astype(np.float64) * shaped - weight) ** 2, axis=None if axis is None else others)

    @pytest.mark.parametrize("precision", ["int8", "fp8"])
    @pytest.mark.parametrize("axis", [0, 1, None])
    def test_no_channel_gets_worse(self, axis: int | None, precision: str) -> None:
        weight = np.random.default_rng(0).standard_t(3, (6, 5, 40)).astype(np.float32)
        by_max, by_mse = (self.error(weight, axis, precision, method) for method in ("max", "mse"))
        assert np.all(by_mse <= by_max * (1 + 1e-6))

    def test_outliers_are_clipped(self) -> None:
        weight = np.random.default_rng(0).standard_normal((2, 60_000)).astype(np.float32)
        weight[:, 7] = 12  # costs every other weight of the channel
        by_max, by_mse = (self.error(weight, 0, "int8", method) for method in ("max", "mse"))
        assert by_mse.sum() < 0.85 * by_max.sum()

    def test_odd_channels(self) -> None:
        weight = np.array([[0, 0], [1e-42, 0], [FLOAT_MAX, 1], [5, -5]], np.float32)
        quantised, scale = quantise_weight(weight, 0, "int8", "mse")
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        assert quantised[0].tolist() == [0, 0]
        assert quantised[3].tolist() == [127, -127]
