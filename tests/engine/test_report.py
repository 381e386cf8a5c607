from __future__ import annotations

from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor


def tensor(dtype: str, *dims: int) -> EngineTensor:
    return EngineTensor(name="t", type=dtype, dims=dims)


CONV = EngineLayer(
    name="conv",
    kind="correlation",
    inputs=(tensor("Int8", -1, 4, 8, 8),),
    constants=(tensor("Int8", 16, 4, 3, 3), tensor("Float", 16)),
    outputs=(tensor("Half", -1, 16, 8, 8),),
)
ATTENTION = EngineLayer(name="_gemm_mha_v2_myl0_3", kind="kgen", inputs=(tensor("Half", 2, 4),))
STEER = EngineLayer(name="shape", kind="shape_call")
FILL = EngineLayer(name="fill", kind="kgen", outputs=(tensor("Int4", 3, 5),))
REPORT = EngineReport(
    source="builder log", layers=(STEER, CONV, ATTENTION, FILL), free=2, activation_memory=2_000_000, separate=("q",)
)


def test_bytes_of_tensors():
    assert tensor("Float", 2, 3).bytes(1) == 24
    assert tensor("BFloat16", -1, 3).bytes(5) == 30
    assert tensor("Int64").bytes(1) == 8, "a scalar"
    assert tensor("FP4", 8).bytes(1) == 4
    assert tensor("something new", 8).bytes(1) == 32


def test_totals():
    assert REPORT.kernels == (CONV, ATTENTION, FILL)
    assert REPORT.bytes_read == 2 * 4 * 8 * 8 + 2 * 4 * 2
    assert REPORT.bytes_written == 2 * 16 * 8 * 8 * 2 + 7
    assert REPORT.constant_bytes == 16 * 4 * 3 * 3 + 16 * 4


def test_what_computes_in_what():
    assert REPORT.precisions == {"Half": 1, "Int4": 1, "Int8": 1}
    assert REPORT.conv_gemm_types == {"Half": 1, "Int8": 1}
    assert CONV.types == {"Int8", "Float", "Half"}


def test_one_line():
    assert REPORT.summary == "3 kernels, 2.0 MB activations, Conv/GEMM layers: 1 FP16, 1 INT8, 1 separate Q/DQ"
    assert EngineReport(source="s", layers=(STEER,)).summary == "0 kernels"


def test_it_survives_its_own_file(tmp_path):
    REPORT.write(tmp_path / "r.json")
    assert EngineReport.read(tmp_path / "r.json") == REPORT
