"""The parser is asked without a build: which nodes it refuses, from which line of the user's, and what helps."""

from __future__ import annotations

import onnx
import pytest
from backends.recording_tensorrt import RecordingTensorRT

from trtpipe.backends.base import missing
from trtpipe.backends.tensorrt_rtx import TensorRTRTX
from trtpipe.backends.trt.parser import ParseReply, ParseRequest, refused
from trtpipe.config.profile import BuildSettings, DeploymentProfile
from trtpipe.config.settings import Settings

rtx_only = pytest.mark.skipif(missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")

TAKEN = "(float[2,64] x) => (float[2,64] y) { a = Relu(x) y = Sigmoid(a) }"


def asked(path):
    return TensorRTRTX().refuses_nodes(path, DeploymentProfile(), Settings(cache_dir=path.parent))


@rtx_only
def test_a_graph_that_the_parser_takes(write_model):
    assert asked(write_model(TAKEN, opset=18)) is None


@rtx_only
@pytest.mark.parametrize(
    ("graph", "opset", "node", "words"),
    [
        ("(float[2,64] x) => (int64[2,N] y) { a = Relu(x) y = NonZero(a) }", 18, "NonZero", "mask"),
        (
            "(uint8[2,4] x, uint8[4,3] w) => (int32[2,3] y) { y = MatMulInteger(x, w) }", 18, "MatMulInteger",
            "float model",
        ),
        ('(int32[N,N] x) => (int32[N] y) { y = Einsum<equation="ii->i">(x) }', 18, "Einsum", "known sizes"),
        (
            '(uint8[1,3,8,8] x) => (float[1,3,4,4] y) { s = Constant<value_floats=[1.0,1.0,0.5,0.5]>() '
            'r = Resize<mode="linear">(x, , s) y = Cast<to=1>(r) }', 18, "Resize", "only the mode nearest",
        ),
        ("(float[2,64] x) => (float[2,64] y) { a = Relu(x) y = Det(a) }", 18, "Det", "replace the operator"),
    ],
)  # fmt: skip
def test_the_advice_is_that_for_the_operator(graph, opset, node, words, write_model):
    refusal = asked(write_model(graph, opset=opset))
    assert refusal is not None
    assert f"({node})" in refusal.reason
    assert words in refusal.remedy
    assert "float32" not in refusal.remedy


@rtx_only
def test_a_type_that_it_has_not_is_named_with_its_tensor(write_model):
    refusal = asked(write_model("(uint16[2] x) => (uint16[2] y) { y = Add(x, x) }", opset=18))
    assert refusal is not None
    assert "input 'x' is uint16" in refusal.reason
    graph = "(float[2,32] x) => (float[2,4] y) { d = DequantizeLinear<axis=0, block_size=32>(q, s) y = MatMul(x, d) }"
    path = write_model(graph, opset=24)
    proto = onnx.load(path)
    for name, kind, dims in (("q", onnx.TensorProto.FLOAT8E4M3FN, [32, 4]), ("s", onnx.TensorProto.FLOAT8E8M0, [1, 4])):
        proto.graph.initializer.append(
            onnx.TensorProto(name=name, data_type=kind, dims=dims, raw_data=bytes(dims[0] * 4))
        )
    onnx.save(proto, path)
    refusal = asked(path)
    assert refusal is not None
    assert "constant 's' is float8_e8m0fnu" in refusal.reason
    assert "domain trt" in refusal.remedy


@rtx_only
def test_a_node_that_the_parser_does_not_name_is_found_and_its_line_with_it(write_model):
    path = write_model(
        "(float[4,8] x, int64[4,8] i, float[4,8] u) => (float[4,8] y)"
        " { a = Relu(x) b = ScatterElements<axis=0,reduction=\"max\">(a, i, u) y = Neg(b) }", opset=18,
    )  # fmt: skip
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        node.metadata_props.add(key="trtpipe.line", value=f"net.py:{number + 10}")
    onnx.save(model, path)
    refusal = asked(path)
    assert refusal is not None
    assert "'n1' (ScatterElements, net.py:11)" in refusal.reason
    assert "one-hot" in refusal.remedy


@rtx_only
def test_a_stack_trace_of_torch_gives_the_innermost_line_of_the_user(write_model):
    path = write_model("(float[2,64] x) => (int64[2,N] y) { y = NonZero(x) }", opset=18)
    model = onnx.load(path)
    model.graph.node[0].name = "nz"
    trace = (
        'File "/home/u/app.py", line 3, in forward\n  File "/home/u/net.py", line 89, in pick\n'
        '  File "/usr/lib/python3/site-packages/torch/_tensor.py", line 7, in nonzero\n'
    )
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    onnx.save(model, path)
    refusal = asked(path)
    assert refusal is not None
    assert "'nz' (NonZero, net.py:89)" in refusal.reason


@rtx_only
def test_rtx_names_the_flavor_that_has_plug_ins(write_model):
    model = onnx.load(write_model(TAKEN, opset=18))
    model.graph.node[1].op_type, model.graph.node[1].domain = "RoiPool_TRT", "vision"
    model.opset_import.add(domain="vision", version=1)
    path = write_model(TAKEN, opset=18).with_name("plugin.onnx")
    onnx.save(model, path)
    refusal = asked(path)
    assert refusal is not None
    assert "(RoiPool_TRT)" in refusal.reason
    assert "--backend tensorrt " in refusal.remedy
    assert "[build] plugins" in refusal.remedy


def test_tensorrt_is_asked_with_the_plug_ins_of_the_profile(write_model, tmp_path):
    trt = RecordingTensorRT("tensorrt-11.4.0.106")
    request = ParseRequest(
        model=str(write_model(TAKEN, opset=18)), workdir=str(tmp_path), flavor="tensorrt",
        options=BuildSettings(plugins=("/lib/own.so",)),
    )  # fmt: skip
    assert refused(trt, request) == ParseReply()
    loaded = next(index for index, call in enumerate(trt.calls) if "load_library" in call)
    parsed = next(index for index, call in enumerate(trt.calls) if "OnnxParser.parse" in call)
    assert loaded < parsed
    assert not [call for call in trt.calls if "build_serialized" in call]
