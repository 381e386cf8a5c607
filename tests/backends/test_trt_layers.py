from __future__ import annotations

from trtpipe.backends._trt_layers import DUMP_MARK, summarise_layers


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


def test_rtx_layers_count_under_the_type_they_compute_in():
    summary = summarise_layers(RTX)
    assert summary is not None
    assert summary.count == 4
    assert summary.precisions == {"FP8": 1, "Float": 1, "Half": 1, "Int8": 1}


def test_classic_layers_too():
    summary = summarise_layers(CLASSIC)
    assert summary is not None
    assert summary.precisions == {"Half": 1, "Int8": 1}
    assert summary.count == 2


def test_no_dump_no_summary():
    assert summarise_layers("") is None
    assert summarise_layers("Layers:\nsomething else entirely\n") is None


def test_the_mark_finds_both():
    assert DUMP_MARK in RTX
    assert DUMP_MARK in CLASSIC
