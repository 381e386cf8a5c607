from __future__ import annotations

import pytest

from trtpipe.backends.trt.errors import remedy_for, tidy

TURING = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot "
    "compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported. In compileGraph at "
    "/_src/optimizer/myelin/codeGenerator.cpp:2012)"
)


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (TURING, "Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported."),
        (
            'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
            "Plugin not found, are the plugin name, version, and namespace correct?",
        ),
        (
            "Assertion failed: creator && getVersion(creator) == Version::kV3ONE: NonZero plugin was not found.",
            "NonZero plugin was not found.",
        ),
        (
            "Error Code 2: OutOfMemory (Requested size was 24408400 bytes.)",
            "OutOfMemory (Requested size was 24408400 bytes.)",
        ),
        (
            "API Usage Error (Tensor y has datatype FP8 but is not produced by IPluginLayer or IQuantizeLayer",
            "tensor 'y' is FP8, which only QuantizeLinear can produce",
        ),
        (
            "Tensor x has datatype Int4 but is not consumed by IPluginLayer, IDequantizeLayer or others.",
            "tensor 'x' is Int4, which only DequantizeLinear can read",
        ),
        ("a  reason\nover two lines", "a reason over two lines"),
        ("x" * 1000, "x" * 400),
    ],
)
def test_tidy(message, short):
    assert tidy(message) == short


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (TURING, "--fp16"),
        (
            "Cannot compile for target(s) sm86, because the model contains HW-specific datatypes: fp8_e4m3.",
            "fp8 from sm89",
        ),
        ("Quantized constant (Wq) is only allowed before DQ or PLUGIN_V2 or kPLUGIN_V3 node.", "DequantizeLinear"),
        ("Network has dynamic inputs, but no optimization profile has been defined.", "--min-shapes"),
        ("Error Code 2: OutOfMemory (Requested size was 24408400 bytes.)", "--workspace"),
        ("NonZero plugin creator version 1 was not found in plugin registry", "library with its plug-in"),
        ("CHECK failed. Attention operation was not supported by a dedicated kernel.", "opset 22"),
        ("Assertion !layerImpls.empty() failed. nms_0 has no runners that implement it", "out of the engine"),
        ("nobody has ever seen this", "another target"),
    ],
)
def test_the_error_guide(message, remedy):
    assert remedy in remedy_for(message)
