"""What a builder says of its engine, with a stand-in for TensorRT that opens engines."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from trtpipe.backends.trt.inspector import describe

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
def say(tmp_path):
    def run(*, opens: bool, inspected: str | None = None, dump: str = ""):
        inspector = SimpleNamespace(get_engine_information=lambda form: inspected)
        engine = None if inspected is None else SimpleNamespace(create_engine_inspector=lambda: inspector)
        trt = SimpleNamespace(
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
            LayerInformationFormat=SimpleNamespace(JSON="json"),
        )
        (tmp_path / "e.plan").write_bytes(b"plan")
        log = SimpleNamespace(logger=None, dump=dump, sizes={"Activation": 64, "Scratch": 32})
        return describe(trt, Network(), log, tmp_path / "e.plan", 4, opens=opens)

    return run


def test_the_inspector_is_asked_where_the_engine_opens(say):
    report = say(opens=True, inspected=json.dumps({"Layers": LAYERS}), dump=DUMP)
    assert report.source == "engine inspector"
    assert report.products == {"Int8": 1}
    assert report.separate == ("q",)
    assert (report.activation_memory, report.scratch_memory, report.weight_memory) == (64, 32, None)
    assert report.free == 4


@pytest.mark.parametrize("opens", [True, False])
def test_else_the_log(say, opens):
    report = say(opens=opens, dump=DUMP)
    assert report.source == "builder log"
    assert report.products == {"Half": 1}
    assert report.separate == ()


def test_a_builder_that_says_nothing(say):
    assert say(opens=False) is None
    assert say(opens=True, inspected=json.dumps({"Layers": ["fc", "q"]})) is None
