"""Forms that TensorRT's importer reads otherwise than ONNX: rewritten, with ONNX Runtime's results unchanged."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, run
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.importer_forms import ImporterForms, misread
from trtpipe.passes.infer_types import InferTypes


def rewritten(proto: onnx.ModelProto, *, shapes: bool = False) -> onnx.ModelProto:
    graph = ir.serde.deserialize_model(proto)
    if shapes:
        ShapeInferencePass()(graph)
    run_passes(graph, (InferTypes(), ImporterForms()))
    assert misread(graph) is None
    made = ir.serde.serialize_model(graph)
    onnx.checker.check_model(made, full_check=True)
    return made


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def parsed(graph: str, opset: int = 21, **weights: np.ndarray) -> onnx.ModelProto:
    return model(graph, opset=opset, **weights)


SCALE, BIAS = normal(6, seed=1), normal(6, seed=2)


@pytest.mark.parametrize("shape", ["2,6,5,4", "N,6,H,W", "N,6,L", "2,6"])
def test_one_group_over_several_channels(shape):
    proto = parsed(
        f"(float[{shape}] x) => (float[{shape}] y) {{ y = GroupNormalization<num_groups=1, epsilon=0.01>(x, s, b) }}",
        s=SCALE, b=BIAS,
    )  # fmt: skip
    made = rewritten(proto)
    assert "GroupNormalization" not in operators(made)
    x = 3 + 2 * normal(2, 6, *[5, 4][: shape.count(",") - 1])
    axes = tuple(range(1, x.ndim))
    spread = np.sqrt(x.var(axes, keepdims=True) + 0.01)
    per_channel = (6, *[1] * (x.ndim - 2))
    wanted = (x - x.mean(axes, keepdims=True)) / spread * SCALE.reshape(per_channel) + BIAS.reshape(per_channel)
    np.testing.assert_allclose(run(made, {"x": x})["y"], wanted, atol=1e-5)


@pytest.mark.parametrize(("groups", "channels"), [(2, 6), (6, 6), (1, 1)])
def test_groups_that_are_read_right_stay(groups, channels):
    proto = parsed(
        f"(float[2,{channels},5] x) => (float[2,{channels},5] y) "
        f"{{ y = GroupNormalization<num_groups={groups}>(x, s, b) }}",
        s=SCALE[:channels], b=BIAS[:channels],
    )  # fmt: skip
    assert operators(rewritten(proto)) == ["GroupNormalization"]


def test_a_group_normalization_in_a_branch_with_parameters_that_are_computed():
    proto = parsed(
        "(float[2,6,5] x, float[6] s, bool c) => (float[2,6,5] y) { z = Relu(x) y = If(c) <then_branch = t () => "
        "(float[2,6,5] p) { p = GroupNormalization<num_groups=1>(z, s, s) }, else_branch = e () => (float[2,6,5] q) "
        "{ q = Neg(z) }> }"
    )
    feed = {"x": normal(2, 6, 5), "s": SCALE, "c": np.array(True)}
    made = rewritten(proto, shapes=True)
    np.testing.assert_allclose(run(made, feed)["y"], run(proto, feed)["y"], atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "gates", "outputs"),
    [("LSTM", 4, "y, h, c"), ("GRU", 3, "y, h"), ("RNN", 1, "y, h"), ("GRU", 3, ", h")],
)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_batches_first(operator, gates, outputs, direction):
    ways, size, steps, batch, hidden = (2 if direction == "bidirectional" else 1), 4, 5, 3, 2
    shapes = {"y": f"{batch},{steps},{ways},{hidden}", "h": f"{batch},{ways},{hidden}", "c": f"{batch},{ways},{hidden}"}
    named = [name for name in outputs.replace(" ", "").split(",") if name]
    initial = ", , , i, j" if operator == "LSTM" else ", , , i"
    states = f"float[{batch},{ways},{hidden}] i" + (f", float[{batch},{ways},{hidden}] j" if operator == "LSTM" else "")
    proto = parsed(
        f"(float[{batch},{steps},{size}] x, {states}) => ({', '.join(f'float[{shapes[n]}] {n}' for n in named)}) "
        f'{{ {outputs} = {operator}<hidden_size={hidden}, layout=1, direction="{direction}">(x, w, r{initial}) }}',
        w=normal(ways, gates * hidden, size, seed=3), r=normal(ways, gates * hidden, hidden, seed=4),
    )  # fmt: skip
    feed = {"x": normal(batch, steps, size), "i": normal(batch, ways, hidden, seed=5)}
    if operator == "LSTM":
        feed["j"] = normal(batch, ways, hidden, seed=6)
    made = rewritten(proto)
    found = run(made, feed)
    for name, by_hand in batch_first_by_hand(proto, feed).items():
        np.testing.assert_allclose(found[name], by_hand, atol=1e-5)


def batch_first_by_hand(proto: onnx.ModelProto, feed):
    """What layout=1 means by ONNX's text: the same network in layout 0, each array transposed."""
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    [node] = plain.graph.node
    kept = [attribute for attribute in node.attribute if attribute.name != "layout"]
    del node.attribute[:]
    node.attribute.extend(kept)
    for value in (*plain.graph.input, *plain.graph.output):
        dims = value.type.tensor_type.shape.dim
        sizes = [dim.dim_value for dim in dims]
        order = (1, 2, 0, 3) if len(sizes) == 4 else (1, 0, 2)
        for dim, axis in zip(dims, order, strict=True):
            dim.dim_value = sizes[axis]
    found = run(plain, {name: value.transpose(1, 0, 2) for name, value in feed.items()})
    return {name: v.transpose(2, 0, 1, 3) if v.ndim == 4 else v.transpose(1, 0, 2) for name, v in found.items()}


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(
    "more", ["output_padding=[1,1]", "output_shape=[10,11]", "output_padding=[1,0], kernel_shape=[3,4]"]
)
def test_transposed_convolution_padded_by_name(auto_pad, more):
    proto = parsed(
        "(float[1,2,5,5] x) => (float[1,3,H,W] y) "
        f'{{ y = ConvTranspose<auto_pad="{auto_pad}", strides=[2,2], {more}>(x, w) }}',
        w=normal(2, 3, 3, 4, seed=7),
    )
    made = rewritten(proto)
    assert {attribute.name for attribute in made.graph.node[0].attribute}.isdisjoint({"auto_pad", "output_shape"})
    x = normal(1, 2, 5, 5)
    [wanted] = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(run(made, {"x": x})["y"], wanted, atol=1e-5)


@pytest.mark.skipif("mode" not in onnx.defs.get_schema("SpaceToDepth").attributes, reason="this onnx has one mode")
def test_columns_first():
    opset = onnx.defs.get_schema("SpaceToDepth").since_version
    proto = parsed('(float[2,3,4,6] x) => (float[2,12,2,3] y) { y = SpaceToDepth<blocksize=2, mode="CRD">(x) }', opset)
    x = normal(2, 3, 4, 6)
    [wanted] = ReferenceEvaluator(proto).run(None, {"x": x})
    [found] = ReferenceEvaluator(rewritten(proto)).run(None, {"x": x})
    np.testing.assert_array_equal(found, wanted)
    blocks = x.reshape(2, 3, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 12, 2, 3)
    np.testing.assert_array_equal(found, blocks)


def test_misread_names_the_node_and_what_is_made_of_it():
    proto = parsed(
        "(float[2,6,5] x) => (float[2,6,5] y) { y = GroupNormalization<num_groups=1>(x, s, b) }", s=SCALE, b=BIAS
    )
    proto.graph.node[0].name = "norm"
    graph = ir.serde.deserialize_model(proto)
    found = misread(graph)
    assert found is not None
    assert (found[0].name, found[1]) == ("norm", "InstanceNormalization")
