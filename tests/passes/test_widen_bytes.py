"""Bytes are computed on in float32, bit for bit as ONNX's integers, and TensorRT takes the result."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import onnxruntime
import pytest
from models import model

from trtpipe.backends.base import missing
from trtpipe.backends.tensorrt_rtx import TensorRTRTX
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.widen_bytes import WidenBytes

rtx_only = pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 8, 6, 3)).astype(np.uint8)
CONSTANTS = {
    "k": np.array([7, 200, 255], np.uint8), "shape": np.array([1, 4, 2, 6, 3]), "begin": np.array([0, 1, 1, 0]),
    "end": np.array([1, 8, 5, 3]), "s": np.array([1, 1, 2, 2], np.float32), "two": np.array(2, np.uint8),
    "i": np.array([2, 1, 0]), "p": np.array([0, 1, 0, 0, 0, 1, 0, 0]), "gray": np.array(114, np.uint8),
    "half": np.float32(1.7), "idx": np.array([0, 1]),
}  # fmt: skip

#: What is done to bytes before the first Cast; each makes ``y``.
FORMS = {
    "transpose": "t = Transpose<perm=[0,3,1,2]>(x) y = Cast<to=1>(t)",
    "crop, reshape": "c = Slice(x, begin, end) t = Transpose<perm=[0,3,1,2]>(c) y = Cast<to=1>(t)",
    "reshape": "c = Reshape(x, shape) m = ReduceMax<keepdims=0>(c, idx) y = Cast<to=1>(m)",
    "resize": 't = Transpose<perm=[0,3,1,2]>(x) r = Resize<mode="nearest">(t, , s) y = Cast<to=1>(r)',
    "to half": "t = Transpose<perm=[0,3,1,2]>(x) h = Cast<to=10>(t) y = Cast<to=1>(h)",
    "to int32": "t = Transpose<perm=[0,3,1,2]>(x) h = Cast<to=6>(t) y = Cast<to=1>(h)",
    "swap channels": "t = Gather<axis=3>(x, i) y = Cast<to=1>(t)",
    "pad": "t = Pad(x, p, gray) y = Cast<to=1>(t)",
    "sum wraps": "t = Add(x, k) y = Cast<to=1>(t)",
    "difference wraps": "t = Sub(x, k) y = Cast<to=1>(t)",
    "product wraps": "t = Mul(x, k) u = Add(t, k) y = Cast<to=1>(u)",
    "quotient": "t = Div(x, k) u = Mul(t, two) y = Cast<to=1>(u)",
    "comparison": "m = Greater(x, k) t = Where(m, x, k) y = Cast<to=1>(t)",
    "two readers": "a = Cast<to=1>(x) t = Identity(x) u = Add(t, two) c = Cast<to=1>(u) y = Add(a, c)",
    "bytes between": "f = Cast<to=1>(x) g = Mul(f, half) h = Min(g, f) q = Cast<to=2>(h) t = Add(q, two)"
    " y = Cast<to=1>(t)",
    "from int32": "f = Cast<to=6>(x) g = Add(f, f) q = Cast<to=2>(g) t = Add(q, two) y = Cast<to=1>(t)",
}


def outputs(proto, **feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def widened(proto):
    loaded = ir.serde.deserialize_model(proto)
    *_, result = run_passes(loaded, [InferTypes(), WidenBytes()])
    return ir.serde.serialize_model(loaded), result.modified


def graph(body: str, made: str = "float") -> onnx.ModelProto:
    used = {name: value for name, value in CONSTANTS.items() if any(name == word for word in words(body))}
    proto = model(f"(uint8[1,8,6,3] x) => ({made} y) {{ {body} }}", opset=18, **used)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(proto)


def words(body: str) -> list[str]:
    return body.replace("(", " ").replace(")", " ").replace(",", " ").split()


def taken(proto, folder) -> bool:
    onnx.save(proto, folder / "m.onnx")
    return TensorRTRTX().refuses_nodes(folder / "m.onnx", DeploymentProfile(), Settings(cache_dir=folder)) is None


@pytest.mark.parametrize("name", FORMS)
def test_results_are_the_same_bit_for_bit(name):
    proto = graph(FORMS[name])
    after, modified = widened(proto)
    assert modified
    onnx.checker.check_model(after, full_check=True)
    np.testing.assert_array_equal(outputs(after, x=PIXELS)[0], outputs(proto, x=PIXELS)[0])
    readers = {node.op_type for node in after.graph.node if "x" in node.input}
    assert readers == {"Cast"}


@rtx_only
@pytest.mark.parametrize("name", FORMS)
def test_tensorrt_takes_it(name, tmp_path):
    after, _ = widened(graph(FORMS[name]))
    assert taken(after, tmp_path)


def test_bytes_that_come_out():
    proto = graph("t = Add(x, k) u = Transpose(t) y = Identity(u)", made="uint8")
    after, _ = widened(proto)
    assert after.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    np.testing.assert_array_equal(outputs(after, x=PIXELS)[0], outputs(proto, x=PIXELS)[0])


@pytest.mark.parametrize(
    "body", ["y = Cast<to=1>(x)", "a = Cast<to=1>(x) h = Cast<to=10>(x) c = Cast<to=1>(h) y = Add(a, c)"]
)
def test_a_graph_that_casts_first_stays(body):
    proto = graph(body)
    after, modified = widened(proto)
    assert not modified
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in proto.graph.node]


def test_a_resize_that_interpolates_is_left_to_the_parser():
    proto = graph('t = Transpose<perm=[0,3,1,2]>(x) r = Resize<mode="linear">(t, , s) y = Cast<to=1>(r)')
    after, _ = widened(proto)
    np.testing.assert_array_equal(outputs(after, x=PIXELS)[0], outputs(proto, x=PIXELS)[0])
    resize = next(node for node in after.graph.node if node.op_type == "Resize")
    maker = next(node for node in after.graph.node if resize.input[0] in node.output)
    assert maker.op_type == "Cast"
    assert maker.attribute[0].i == onnx.TensorProto.UINT8
