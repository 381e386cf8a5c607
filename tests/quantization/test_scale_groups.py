from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import model, normal
from planning import planned, settings

from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.quantization.plan import plan


def groups(body: str, *names: str, **constants: np.ndarray) -> tuple[tuple[str, ...], ...]:
    """Of these tensors, each read by a product."""
    readers = "".join(f" read_{name} = MatMul({name}, weight)" for name in names)
    loaded = ir.serde.deserialize_model(
        model(f"(float[1,2,4,4] x) => (float y) {{ {body}{readers} }}", weight=normal(4, 32), **constants)
    )
    run_passes(loaded, [InferTypes()])
    return plan(loaded, settings()).groups


@pytest.mark.parametrize(
    "move",
    [
        "Transpose(x)", "Flatten(x)", "MaxPool<kernel_shape=[2,2]>(x)", "Identity(x)", "Reshape(x, shape)",
        "Slice(x, zero, one)", "Gather(x, zero)", "Pad(x, pads)", "Concat<axis=1>(x, x)", "Tile(x, shape)",
        "Resize<mode=\"nearest\">(x, , scales)", "Squeeze(x, zero)",
    ],
)  # fmt: skip
def test_values_that_only_move_share_a_scale(move):
    constants = {"shape": np.array([1, 2, 16]), "zero": np.array([0]), "one": np.array([1]),
                 "pads": np.zeros(8, np.int64), "scales": np.ones(4, np.float32)}  # fmt: skip
    assert groups(f"y = {move}", "x", "y", **constants) == (("x", "y"),)


@pytest.mark.parametrize(
    "change",
    ["Relu(x)", "AveragePool<kernel_shape=[2,2]>(x)", "Add(x, x)", "Pad(x, pads, one)", "Softmax(x)",
     "Resize<mode=\"linear\">(x, , scales)"],
)  # fmt: skip
def test_values_that_change_do_not(change):
    constants = {"pads": np.ones(8, np.int64), "one": np.float32(1), "scales": np.ones(4, np.float32)}
    assert groups(f"y = {change}", "x", "y", **constants) == ()


def test_chains_join_what_lies_far_apart():
    body = "a = Relu(x) b = Transpose(a) c = Concat<axis=1>(x, b) d = Flatten(c) y = Relu(d)"
    assert groups(body, "x", "a", "d", "y") == (("x", "a", "d"),)


def test_the_joint_range_is_the_largest():
    proto = model(
        "(float[1,16,4,4] x) => (float[1,16,4,4] y, float[1,16,2,2] z, float[1,16,4,4] q) { y = Conv(x, w) "
        "m = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) z = Conv(m, w) s = Sigmoid(x) q = Conv(s, w) }",
        w=normal(16, 16, 1, 1),
    )
    found = planned(proto).with_ranges({"x": 1.0, "m": 3.0, "s": 2.0})
    assert found.groups == (("x", "m"),)
    assert found.limits == {"x": 3.0, "m": 3.0, "s": 2.0}
    assert found.amax["x"] == 1.0


def test_a_part_that_is_a_hundredth_of_the_whole_keeps_its_own_scale():
    proto = model(
        "(float[1,16,4,4] x) => (float[1,16,4,4] y, float[1,16,4,4] z, float[1,16,4,4] q) { a = Relu(x) b = Sigmoid(x) "
        "c = Concat<axis=1>(a, b) y = Conv(a, w) z = Conv(b, w) q = Conv(c, v) }",
        w=normal(16, 16, 1, 1),
        v=normal(16, 32, 1, 1),
    )
    found = planned(proto)
    alike = found.with_ranges({"a": 10.0, "b": 1.0, "c": 10.0})
    assert alike.limits == {"a": 10.0, "b": 10.0, "c": 10.0}
    apart = found.with_ranges({"a": 200.0, "b": 1.0, "c": 200.0})
    assert apart.groups == (("a", "c"),)
    assert apart.limits["b"] == 1.0
