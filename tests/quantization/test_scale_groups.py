from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import model

from trtpipe.quantization.scale_groups import joint_amax, scale_groups


def groups(body: str, *names: str, **constants: np.ndarray) -> tuple[tuple[str, ...], ...]:
    loaded = ir.serde.deserialize_model(model(f"(float[1,2,4,4] x) => (float y) {{ {body} }}", **constants))
    values = {v.name: v for v in (*loaded.graph.inputs, *(o for n in loaded.graph for o in n.outputs))}
    return scale_groups([values[name] for name in names])


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
    amax = {"a": 1.0, "b": 3.0, "c": 2.0}
    assert joint_amax(amax, [("a", "b"), ("c", "unseen")]) == {"a": 3.0, "b": 3.0, "c": 2.0}
