"""onnxruntime's own operators against what they are written as: both run by onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
from models import normal, run
from onnx import TensorProto, helper, numpy_helper

from trtpipe.passes.contrib_operators import WriteContribOperators, unwritten
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes

if TYPE_CHECKING:
    import onnx

SEQUENCE = [2, 5, 8]


def contrib(
    op: str,
    inputs: dict[str, Any],
    constants: dict[str, np.ndarray],
    outputs: int = 1,
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node whose inputs, in order, are these and then the constants; empty names leave one out."""
    order = attributes.pop("order", [*inputs, *constants])
    read = attributes.pop("read", (0,))
    names = [f"y{i}" if i in read else "" for i in range(outputs)]
    node = helper.make_node(op, order, names, "n", domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in inputs.items()
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def x(*shape: int, seed: int = 0) -> np.ndarray:
    return normal(*(shape or SEQUENCE), seed=seed)


ROWS = {"scale": x(8, seed=1), "shift": x(8, seed=2)}
WEIGHT = {"w": x(8, 24, seed=3) / 3, "b": x(24, seed=4)}
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
LENGTHS = np.array([3, 5], np.int32)
CONV = {"w": x(4, 3, 3, 3, seed=5), "b": x(4, seed=6)}
IMAGE = x(1, 3, 6, 6)
TABLES = {"words": x(11, 8, seed=7), "places": x(6, 8, seed=8), "kinds": x(2, 8, seed=9)}
IDS = np.array([[1, 2, 3, 4, 10], [5, 6, 7, 8, 9]], np.int32)
CASES: dict[str, tuple[Any, ...]] = {
    "Gelu": ("Gelu", {"x": x()}, {}),
    "BiasGelu": ("BiasGelu", {"x": x()}, {"b": x(8)}),
    "FastGelu": ("FastGelu", {"x": x()}, {}),
    "FastGelu with bias": ("FastGelu", {"x": x()}, {"b": x(8)}),
    "QuickGelu": ("QuickGelu", {"x": x()}, {}, {"alpha": 1.5}),
    "FusedConv, Relu": ("FusedConv", {"x": IMAGE}, CONV, {"activation": "Relu", "pads": [1, 1, 1, 1]}),
    "FusedConv, LeakyRelu": ("FusedConv", {"x": IMAGE}, CONV, {"activation": "LeakyRelu", "activation_params": [0.3]}),
    "FusedConv, Clip": ("FusedConv", {"x": IMAGE}, CONV, {"activation": "Clip", "activation_params": [-0.5, 0.5]}),
    "FusedConv, HardSigmoid": (
        "FusedConv", {"x": IMAGE}, CONV, {"activation": "HardSigmoid", "activation_params": [0.1, 0.4]},
    ),
    "FusedConv with a sum": (
        "FusedConv", {"x": IMAGE}, {**CONV, "z": x(1, 4, 6, 6)}, {"activation": "Relu", "pads": [1, 1, 1, 1]},
    ),
    "FusedGemm": ("FusedGemm", {"x": x(5, 8)}, {"w": x(3, 8), "b": x(3)}, {"transB": 1, "activation": "Tanh"}),
    "FusedMatMul": ("FusedMatMul", {"x": x()}, {"w": x(3, 8)}, {"transB": 1, "alpha": 0.5}),
    "FusedMatMul of activations": ("FusedMatMul", {"x": x(), "k": x(2, 5, 3, seed=3)}, {}, {"transA": 1}),
    "SkipLayerNormalization": ("SkipLayerNormalization", {"x": x(), "s": x(seed=5)}, ROWS, {"epsilon": 1e-3}),
    "SkipLayerNormalization with a bias and the sum": (
        "SkipLayerNormalization", {"x": x(), "s": x(seed=5)}, {**ROWS, "bias": x(8)}, {"read": (0, 3)}, 4,
    ),
    "SkipSimplifiedLayerNormalization": (
        "SkipSimplifiedLayerNormalization", {"x": x(), "s": x(seed=5)}, {"scale": x(8)}, {"epsilon": 1e-3},
    ),
    "EmbedLayerNormalization": (
        "EmbedLayerNormalization", {"ids": IDS, "segments": (IDS % 2).astype(np.int32)}, {**TABLES, **ROWS},
        {"order": ["ids", "segments", "words", "places", "kinds", "scale", "shift"], "epsilon": 1e-5}, 2,
    ),
    "EmbedLayerNormalization of words": (
        "EmbedLayerNormalization", {"ids": IDS}, {**TABLES, **ROWS},
        {"order": ["ids", "", "words", "places", "", "scale", "shift"]}, 2,
    ),
    "Attention": ("Attention", {"x": x()}, WEIGHT, {"num_heads": 2}),
    "Attention with a mask": (
        "Attention", {"x": x(), "m": MASK}, WEIGHT, {"num_heads": 2, "order": ["x", "w", "b", "m"]},
    ),
    "Attention with a mask of other numbers": (
        "Attention", {"x": x(), "m": MASK * np.array([[3], [2]], np.int32) - (MASK == 0)}, WEIGHT,
        {"num_heads": 2, "order": ["x", "w", "b", "m"]},
    ),
    "MultiHeadAttention with a mask of other numbers": (
        "MultiHeadAttention", {"q": x(), "k": x(seed=3), "v": x(seed=4), "m": MASK * 3}, {},
        {"num_heads": 2, "order": ["q", "k", "v", "", "m"]},
    ),
    "Attention with lengths": (
        "Attention", {"x": x(), "m": LENGTHS}, WEIGHT, {"num_heads": 4, "order": ["x", "w", "b", "m"]},
    ),
    "Attention, causal, scaled": ("Attention", {"x": x()}, WEIGHT, {"num_heads": 2, "unidirectional": 1, "scale": 0.3}),
    "Attention with widths": (
        "Attention", {"x": x()}, {"w": x(8, 20, seed=3) / 3, "b": x(20)},
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]},
    ),
    "MultiHeadAttention": (
        "MultiHeadAttention", {"q": x(), "k": x(2, 7, 8, seed=3), "v": x(2, 7, 8, seed=4)}, {}, {"num_heads": 2},
    ),
    "MultiHeadAttention with a bias": (
        "MultiHeadAttention", {"q": x(), "k": x(seed=3), "v": x(seed=4)}, {"b": x(24)}, {"num_heads": 4},
    ),
}  # fmt: skip


def written(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.serde.deserialize_model(proto)
    run_passes(model, (InferTypes(), WriteContribOperators()))
    return ir.serde.serialize_model(model)


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same(name: str, opset: int) -> None:
    op, inputs, constants, *rest = CASES[name]
    attributes, outputs = [*rest, *({}, 1)[len(rest) :]]
    proto = contrib(op, inputs, constants, outputs, opset, **attributes)
    result = written(proto)
    assert {node.domain for node in result.graph.node} == {""}
    expected, found = run(proto, inputs), run(result, inputs)
    assert list(found) == list(expected)
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-5, atol=1e-5)


def test_what_is_not_known_stays_and_is_named() -> None:
    node = helper.make_node("RotaryEmbedding", ["x", "p", "c", "s"], ["z"], "turn", domain="com.microsoft")
    proto = contrib("Gelu", {"x": x()}, {})
    proto.graph.node.append(node)
    sentence = unwritten(ir.serde.deserialize_model(proto))
    assert sentence is not None
    assert "'turn'" in sentence and "RotaryEmbedding" in sentence  # noqa: PT018
    assert unwritten(ir.serde.deserialize_model(contrib("Gelu", {"x": x()}, {}))) is None


def test_keys_and_values_of_calls_before_are_not_left_out() -> None:
    constants = {**WEIGHT, "past": x(2, 2, 2, 3, 4)}
    proto = contrib("Attention", {"x": x()}, constants, num_heads=2, order=["x", "w", "b", "", "past"])
    assert [node.op_type for node in written(proto).graph.node] == ["Attention"]


def test_other_domains_are_left_alone() -> None:
    proto = contrib("Gelu", {"x": x()}, {})
    proto.graph.node[0].domain = "mine"
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    assert [node.op_type for node in written(proto).graph.node] == ["Gelu"]
