from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from models import CASES, model, normal
from onnx import TensorProto

from trtpipe.passes.infer_types import InferTypes, formal, schema_of


def inferred(proto: onnx.ModelProto) -> dict[str, int]:
    """Name -> element type of every value the main graph's nodes produce."""
    loaded = ir.serde.deserialize_model(proto)
    InferTypes().call(loaded)
    return {
        value.name: 0 if value.dtype is None else value.dtype.value
        for node in loaded.graph
        for value in node.outputs
        if value.name
    }


def by_onnx(proto: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}


ODD = {
    "casts": model(
        "(int64[2] i, float16[2] h) => (float[2] y) { a = Cast<to=11>(i) b = Cast<to=7>(a) c = CastLike(b, h) "
        "d = CastLike(c, b) y = Cast<to=1>(d) }"
    ),
    "shapes": model(
        "(float[2,3] x) => (float[a,b] y) { s = Shape(x) n = Size(x) z = ConstantOfShape(s) "
        "o = ConstantOfShape<value=int64[1] {1}>(s) p = NonZero(z) e = EyeLike<dtype=6>(x) f = EyeLike(x) "
        "y = Expand(x, s) }"
    ),
    "constants": model(
        "(float[1] x) => (float[1] y) { a = Constant<value=float16[1] {15360}>() b = Constant<value_int=3>() "
        "c = Constant<value_floats=[1.0, 2.0]>() d = Constant<value_ints=[1, 2]>() e = Constant<value_float=2.5>() "
        "f = Constant<value_string=\"s\">() y = Relu(x) }"
    ),
    "choices": model(
        "(float[2,6] x, int64[1] k) => (float[2,k] y) { y, i = TopK(x, k) m = ArgMax(x) g = Greater(x, x) "
        "n = Not(g) w = Where(n, x, x) p, q = Split<num_outputs=2>(w) d, mask = Dropout(p) }"
    ),
    "quantized": model(
        "(float[2] x) => (float[2] y) { a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) "
        "c = QuantizeLinear(b, s) d = DequantizeLinear(c, s) e, f, g = DynamicQuantizeLinear(d) y = Relu(d) }",
        s=normal(1)[0], z=onnx.numpy_helper.to_array(onnx.helper.make_tensor("z", TensorProto.INT8, [], [0])),
    ),
    "random": model(
        "(float[2] x) => (float[2] y) { a = RandomNormal<shape=[2], dtype=11>() b = RandomUniform<shape=[2]>() "
        "c = RandomNormalLike<dtype=10>(x) d = RandomUniformLike(x) e = Bernoulli(x) f = Bernoulli<dtype=9>(x) "
        "y = Relu(x) }"
    ),
    "nested": model(
        "(float[2] x, bool c) => (float[2] y) { r = Relu(x) y = If(c) <then_branch = t () => (float[2] a) { "
        "u = Neg(r) a = If(c) <then_branch = tt () => (float[2] d) { d = Sigmoid(u) }, "
        "else_branch = te () => (float[2] e) { e = Tanh(u) }> }, "
        "else_branch = e () => (float[2] b) { b = Exp(r) }> }"
    ),
}  # fmt: skip


@pytest.mark.parametrize("proto", [*(case() for case in CASES.values()), *ODD.values()], ids=[*CASES, *ODD])
def test_types_are_those_of_onnx_itself(proto):
    found, expected = inferred(proto), by_onnx(proto)
    assert found == {name: expected[name] for name in found}
    assert found


def test_values_inside_bodies_follow_from_the_outer_graph():
    loaded = ir.serde.deserialize_model(ODD["nested"])
    InferTypes().call(loaded)
    inner = {value.name: value.dtype for node in loaded.graph.all_nodes() for value in node.outputs}
    assert set(inner) == {"r", "y", "u", "a", "d", "e", "b"}
    assert set(inner.values()) == {ir.DataType.FLOAT}


def test_float8_that_onnx_knows_by_its_output_type():
    graph = "(float[2] x) => (float[2] y) { q = QuantizeLinear<output_dtype=17>(x, s) y = DequantizeLinear(q, s) }"
    proto = model(graph, opset=21, s=normal(1)[0])
    assert inferred(proto)["q"] == TensorProto.FLOAT8E4M3FN


def test_known_types_are_kept_and_unknown_operators_stay_unknown():
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", TensorProto.DOUBLE, [2]))
    assert inferred(proto)["a"] == TensorProto.DOUBLE
    foreign = model("(float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }")
    foreign.graph.node[0].domain = "somewhere"
    assert inferred(foreign) == {"a": 0, "y": TensorProto.FLOAT}


def test_whether_it_changed_anything():
    loaded = ir.serde.deserialize_model(CASES["residual"]())
    assert InferTypes().call(loaded).modified
    assert not InferTypes().call(loaded).modified


def test_schemas_and_their_variadic_parameters():
    proto = model("(float[2] x) => (float[6] y) { y = Concat<axis=0>(x, x, x) }")
    node = next(iter(ir.serde.deserialize_model(proto).graph))
    concat = schema_of(node, {"": 20})
    assert concat.name == "Concat"
    assert formal(concat.inputs, 2) is not None
    assert formal(concat.outputs, 1) is None
    assert schema_of(node, {}) is None
