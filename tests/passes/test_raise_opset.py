from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import conv_net, feed_for, listed_initializers, model, normal, run

from trtpipe.errors import StageError
from trtpipe.passes.opsets import LEAST_OPSET
from trtpipe.passes.raise_opset import raise_opset


@pytest.mark.parametrize("least", [LEAST_OPSET, 22])
def test_an_old_model_computes_the_same_at_the_new_opset(least):
    proto = model(
        "(float[2,6] x) => (float[2,3] y) { a, b = Split<axis=1, split=[3,3]>(x) c = ReduceMean<axes=[1]>(a) "
        "d = Clip<min=-1.0, max=1.0>(b) s = Squeeze<axes=[1]>(c) u = Unsqueeze<axes=[1]>(s) y = Add(d, u) }",
        opset=10, ir_version=5,
    )  # fmt: skip
    raised = raise_opset(ir.serde.deserialize_model(proto), least)
    assert raised.graph.opset_imports[""] == least
    assert raised.graph.name == "g"
    assert raised.ir_version >= 9  # what opset 19 came with
    result = ir.serde.serialize_model(raised)
    onnx.checker.check_model(result, full_check=True)
    feed = feed_for(proto)
    np.testing.assert_allclose(run(result, feed)["y"], run(proto, feed)["y"], rtol=1e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("opset", "operator", "scales"),
    [(8, "Upsample", (2, 2)), (8, "Upsample", (3, 1.5)), (9, "Upsample", (3, 4)), (10, "Resize", (2.5, 3))],
)
def test_pictures_are_enlarged_as_before(opset, operator, scales, mode):
    sizes = np.array([1, 1, *scales], np.float32)
    attributes = f", scales=[{', '.join(map(str, map(float, sizes)))}]" if opset < 9 else ""
    proto = model(
        f'(float[1,2,6,5] x) => (float[N,C,H,W] y) {{ y = {operator}<mode="{mode}"{attributes}>'
        f"(x{'' if opset < 9 else ', sizes'}) }}",
        opset=opset, ir_version=5, **({} if opset < 9 else {"sizes": sizes}),
    )  # fmt: skip
    raised = ir.serde.serialize_model(raise_opset(ir.serde.deserialize_model(proto), 19))
    feed = {"x": np.arange(60, dtype=np.float32).reshape(1, 2, 6, 5) ** 1.5}
    np.testing.assert_allclose(run(raised, feed)["y"], run(proto, feed)["y"], rtol=1e-5)


def test_a_model_that_is_there_already_is_returned_itself():
    loaded = ir.serde.deserialize_model(conv_net())
    assert raise_opset(loaded, 20) is loaded
    assert raise_opset(loaded, 13) is loaded


def test_weights_and_interface_survive():
    proto = listed_initializers()
    loaded = ir.serde.deserialize_model(proto)
    raised = raise_opset(loaded, 19)
    np.testing.assert_array_equal(raised.graph.initializers["w"].const_value.numpy(), normal(4, 3, 3, 3))
    assert [value.name for value in raised.graph.outputs] == ["y"]


def test_what_the_converter_cannot_do_is_said_with_its_reason():
    proto = model("(float[2,3] x) => (float[2,3] y) { y = BatchNormalization<spatial=0>(x, a, a, a, a) }", opset=7,
                  a=normal(3))  # fmt: skip
    with pytest.raises(StageError, match=r"opset 7 cannot be raised to 19: .*spatial must have value 1") as caught:
        raise_opset(ir.serde.deserialize_model(proto), 19)
    assert "export the model again" in caught.value.remedy


def test_large_constants_are_not_copied_and_keep_their_places():
    proto = model(
        "(float[2,40] x) => (float[2,3] y) { a = MatMul(x, u) b = Add(a, c) d = MatMul(b, v) y = Split<axis=1>(d) }",
        opset=13, u=normal(40, 30), c=normal(30, seed=1), v=normal(30, 300, seed=2)[:, :3].copy(),
        w=normal(20, 20, seed=3),
    )  # fmt: skip
    given = ir.serde.deserialize_model(proto)
    tensors = {name: value.const_value for name, value in given.graph.initializers.items()}
    raised = raise_opset(given, 22)
    assert [value.name for value in raised.graph.inputs] == ["x"]
    assert [name for name in raised.graph.initializers if name in tensors] == list(tensors)
    assert raised.graph.initializers["u"].const_value is tensors["u"]
    assert given.graph.initializers["u"].const_value is tensors["u"]
    result = ir.serde.serialize_model(raised)
    onnx.checker.check_model(result, full_check=True)
    feed = feed_for(proto)
    np.testing.assert_array_equal(run(result, feed)["y"], run(proto, feed)["y"])
