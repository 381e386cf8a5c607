"""The layers of an engine, from the log and from the engine inspector, with a fake of TensorRT that opens engines."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from trtpipe.backends.trt.errors import DUMP_MARK
from trtpipe.backends.trt.inspector import node_name, read_dump, read_inspector, read_layers, separate_nodes
from trtpipe.engine.report import EngineReport, EngineTensor

LAYERS = [
    {
        "Name": "fc",
        "LayerType": "CaskGemmMatrixMultiply",
        "Inputs": [{"Name": "x", "Dimensions": [4, 8], "Format/Datatype": "Row major Int8 format"}],
        "Outputs": [{"Name": "y", "Dimensions": [4, 2], "Format/Datatype": "Row major linear FP32"}],
        "Metadata": "[ONNX Layer: fc]",
    },
    {
        "Name": "q",
        "LayerType": "Reformat",
        "Inputs": [{"Name": "i", "Dimensions": [4, 8], "Format/Datatype": "Row major linear FP32"}],
        "Outputs": [{"Name": "x", "Dimensions": [4, 8], "Format/Datatype": "Row major Int8 format"}],
        "Metadata": "[ONNX Layer: q]",
    },
]
DUMP = (
    "Layers:\nName: fc, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [4,8], Strides: [8,1], Datatype: Half, "
    "Format: f }], Constants: [], Outputs: [], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: fc]"
)


class Network:
    """A parsed network with one Quantize and one MatrixMultiply layer."""

    num_layers = 2

    def get_layer(self, index: int) -> SimpleNamespace:
        name, kind = (("q", "QUANTIZE"), ("fc", "MATRIX_MULTIPLY"))[index]
        return SimpleNamespace(name=name, type=SimpleNamespace(name=kind))


@pytest.fixture
def layers(tmp_path):
    def run(*, opens: bool, inspected: str | None = None, dump: str = ""):
        inspector = SimpleNamespace(get_engine_information=lambda form: inspected)
        engine = None if inspected is None else SimpleNamespace(create_engine_inspector=lambda: inspector)
        trt = SimpleNamespace(
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
            LayerInformationFormat=SimpleNamespace(JSON="json"),
        )
        (tmp_path / "e.plan").write_bytes(b"plan")
        log = SimpleNamespace(logger=None, dump=dump, sizes={"Activation": 64, "Scratch": 32})
        return read_layers(trt, Network(), log, tmp_path / "e.plan", 4, opens=opens)

    return run


def test_the_inspector_is_asked_where_the_engine_opens(layers):
    report = layers(opens=True, inspected=json.dumps({"Layers": LAYERS}), dump=DUMP)
    assert report.source == "engine inspector"
    assert report.conv_gemm_types == {"Int8": 1}
    assert report.separate == ("q",)
    assert (report.activation_memory, report.scratch_memory, report.weight_memory) == (64, 32, None)
    assert report.free == 4


@pytest.mark.parametrize("opens", [True, False])
def test_otherwise_the_log_is_read(layers, opens):
    report = layers(opens=opens, dump=DUMP)
    assert report.source == "builder log"
    assert report.conv_gemm_types == {"Half": 1}
    assert report.separate == ()


def test_no_layers_no_report(layers):
    assert layers(opens=False) is None
    assert layers(opens=True, inspected=json.dumps({"Layers": ["fc", "q"]})) is None


def tensor(name: str, dims: str, dtype: str) -> str:
    return f"{{ Name: {name}, Dimensions: [{dims}], Strides: [1], Datatype: {dtype}, Format: (NHWC) Channel major }}"


def layer(kind: str, inputs: str, constants: str, outputs: str) -> str:
    return (
        f"Name: n, LayerType: {kind}, Inputs: [{inputs}], Constants: [{constants}], Outputs: [{outputs}], "
        "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: a]"
    )


RTX = "\n".join(
    [
        "Layers:",
        layer("shape_call", "", "", ""),
        layer("kgen", " " + tensor("x", "-1,3,16,16", "Float"), "", " " + tensor("q", "-1,3,16,16", "Int8")),
        layer(
            "correlation",
            " " + tensor("q", "-1,3,16,16", "Int8"),
            " " + tensor("w", "8,3,3,3", "Int8"),
            " " + tensor("c", "-1,8,16,16", "Float"),
        ),
        layer("kgen", "", "", " " + tensor("k", "4", "Half")),
        layer("gemm", " " + tensor("f", "4,4", "FP8") + ", " + tensor("g", "4", "Float"), "", ""),
        "",
        "I/O Tensors:",
        " Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,3,16,16], Location: Device",
    ]
)

CLASSIC = """Engine Layer Information:
Layers:
Name: conv + relu, LayerType: CaskConvolution, Inputs: [ { Name: a, Location: Device, Dimensions: [6,128,60,92], \
Format/Datatype: Channel major FP16 format where channel % 8 == 0 }, { Name: b, Location: Device, Dimensions: [6], \
Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: c, Location: Device, Dimensions: [6,512,60,92], \
Format/Datatype: Row major linear FP32 }], ParameterType: Convolution, Kernel: [1,1], TacticName: s, StreamId: 0
Name: quant, LayerType: CaskConvolution, Inputs: [ { Name: a, Location: Device, Dimensions: [1,64,56,56], \
Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], Outputs: [ { Name: c, Dimensions: [1], \
Format/Datatype: Row major linear FP32 }], ParameterType: Convolution
Name: stop, LayerType: Signal, Inputs: [], Outputs: [], TacticName: , StreamId: 0
"""


#: Written by hand from the fields that NVIDIA's documentation shows ("Engine Inspector", and trtexec's
#: --exportLayerInfo): a convolution of TensorRT's own, a layer that Myelin generated, and one without tensors.
INSPECTED = {
    "Layers": [
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [
                {
                    "Name": "quantized",
                    "Location": "Device",
                    "Dimensions": [8, 3, 224, 224],
                    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
                }
            ],
            "Outputs": [
                {
                    "Name": "feature",
                    "Location": "Device",
                    "Dimensions": [8, 64, 112, 112],
                    "Format/Datatype": "Channel major FP16 format where channel % 8 == 0",
                }
            ],
            "ParameterType": "Convolution",
            "Kernel": [7, 7],
            "Weights": {"Type": "Int8", "Count": 9408},
            "Bias": {"Type": "Float", "Count": 64},
            "TacticName": "sm80_xmma_fprop",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /relu/Relu]",
        },
        {
            "Name": "__myl_Quan_myl0_1",
            "LayerType": "kgen",
            "Inputs": [{"Name": "a", "Dimensions": [2, 4], "Format/Datatype": "Float"}],
            "Outputs": [{"Name": "b", "Dimensions": [2, 4], "Datatype": "FP8", "Format": "Linear"}],
            "Constants": [{"Name": "s", "Dimensions": [1], "Format/Datatype": "Float"}],
            "TacticName": "t",
            "Metadata": "[ONNX Layer: q[0]]",
        },
        {"Name": "wait", "LayerType": "Wait", "Inputs": [], "Outputs": [], "Bias": {"Type": "Float", "Count": 0}},
        "only a name",
    ],
    "Bindings": ["x", "y"],
}


def report(text: str, free: int = 1) -> EngineReport:
    return EngineReport(source="builder log", layers=read_dump(text), free=free)


def test_rtx_layers_count_under_the_type_they_compute_in():
    found = report(RTX)
    assert len(found.layers) == 5
    assert len(found.kernels) == 4
    assert found.precisions == {"FP8": 1, "Float": 1, "Half": 1, "Int8": 1}


def test_every_field_of_an_rtx_layer():
    conv = read_dump(RTX)[2]
    assert (conv.name, conv.kind, conv.nodes, conv.tactic) == ("n", "correlation", ("a",), "t")
    assert conv.inputs == (EngineTensor(name="q", type="Int8", dims=(-1, 3, 16, 16)),)
    assert conv.constants == (EngineTensor(name="w", type="Int8", dims=(8, 3, 3, 3)),)
    assert conv.outputs == (EngineTensor(name="c", type="Float", dims=(-1, 8, 16, 16)),)


def test_several_tensors_in_one_list():
    gemm = read_dump(RTX)[4]
    assert [(tensor.name, tensor.type, tensor.dims) for tensor in gemm.inputs] == [
        ("f", "FP8", (4, 4)),
        ("g", "Float", (4,)),
    ]


def test_classic_layers_too():
    found = report(CLASSIC)
    assert found.precisions == {"Half": 1, "Int8": 1}
    assert [(tensor.type, tensor.dims) for tensor in found.layers[0].inputs] == [
        ("Half", (6, 128, 60, 92)),
        ("Float", (6,)),
    ]
    assert found.layers[0].tactic == "s"


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("", ()),
        ("[ONNX Layer: a][ONNX Layer: b]", ("a", "b")),
        ("[ONNX Layer: a][ONNX Layer: a]__gemm_from_conv1x1", ("a",)),
        ("[ONNX Layer: w[0]][ONNX Layer: v[1]]", ("w[0]", "v[1]")),
        ("[ONNX Layer: node_of_y]", ("y",)),
        ("[ONNX Layer: node_of_a | t (then_branch) | node_of_y (If)]", ("a",)),
        ("[ONNX Layer: a]\x1f[ONNX Layer: b]", ("a", "b")),
    ],
)
def test_the_nodes_inside_a_layer(metadata, nodes):
    line = "Name: n, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, EventId: 1, "
    [found] = read_dump(f"Layers:\n{line}Metadata: {metadata}")
    assert found.nodes == nodes


def test_no_dump_no_layers():
    assert read_dump("") == ()
    assert read_dump("Layers:\nsomething else entirely\n") == ()


def test_what_the_engine_inspector_gives():
    layers = read_inspector(json.dumps(INSPECTED))
    conv, quantize, wait, name = layers
    assert (conv.kind, conv.nodes) == ("CaskConvolution", ("/conv1/Conv", "/relu/Relu"))
    assert [(t.type, t.dims) for t in conv.constants] == [("Int8", (9408,)), ("Float", (64,))]
    assert conv.is_conv_gemm
    assert (conv.inputs[0].type, conv.outputs[0].type) == ("Int8", "Half")
    assert conv.outputs[0].bytes(1) == 8 * 64 * 112 * 112 * 2
    assert quantize.types == {"Float", "FP8"}
    assert quantize.nodes == ("q[0]",)
    assert not wait.is_kernel
    assert (name.name, name.is_kernel) == ("only a name", False)


def test_quantization_that_became_kernels():
    layers = read_inspector(json.dumps(INSPECTED))
    assert separate_nodes(layers, {"q[0]", "/conv1/Conv"}, ()) == ("q[0]",)
    assert separate_nodes(layers, {"/conv1/Conv"}, {"/relu/Relu"}) == ("/conv1/Conv",)
    assert separate_nodes(layers, {"/conv1/Conv"}, {"q[0]"}) == (), "a cast alone quantizes nothing"


def test_names_of_nodes():
    assert node_name("conv") == "conv"
    assert node_name("node_of_y") == "y"


def test_the_mark_finds_both():
    assert DUMP_MARK in RTX
    assert DUMP_MARK in CLASSIC
