"""Figures of the report's drawings: shares of the widest kernel, colors by format, columns of many values."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.backends.timing import DeviceState
from trtpipe.config.formats import FORMATS
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.latency.reports import Latency
from trtpipe.passes.decisions import NodeDecision
from trtpipe.quantization.sensitivity import GroupSensitivity, Sensitivity
from trtpipe.views import pictures


def tensor(name: str, dtype: str, *dims: int) -> EngineTensor:
    return EngineTensor(name=name, type=dtype, dims=dims)


CONV = EngineLayer(
    name="k0",
    kind="correlation",
    inputs=(tensor("x", "Int8", 1, 16, 10, 10),),  # 1600 bytes
    constants=(tensor("w", "Int8", 4, 16, 3, 5),),  # 960
    outputs=(tensor("h", "Half", 1, 4, 6, 6),),  # 288
    nodes=("conv", "relu"),
)
COPY = EngineLayer(
    name="k1",
    kind="kgen",
    inputs=(tensor("a", "Float", 100),),  # 400
    outputs=(tensor("b", "Int8", 312),),  # 312
    nodes=("q",),
)
ATTENTION = EngineLayer(name="_gemm_mha_v2_0", kind="kgen", inputs=(tensor("c", "Half", 8),), nodes=("softmax",))
REPORT = EngineReport(source="a test", layers=(CONV, COPY, ATTENTION), separate=("q",))
NODES = {
    each.node: each
    for each in (
        NodeDecision(node="conv", op="Conv", precision="int8", reason="why", macs=3000),
        NodeDecision(node="relu", op="Relu", precision="int8", reason="fuses"),
        NodeDecision(node="softmax", op="MatMul", precision="float16", reason="r", macs=750),
    )
}


def format_of(color: int) -> str:
    return FORMATS[color].name


def test_kernels_are_shares_of_the_widest() -> None:
    drawn = pictures.engine_picture(["sm89", "sm120"], REPORT, NODES)
    assert [kernel.title for kernel in drawn.kernels] == ["Conv + Relu", "kgen", "MatMul"]
    assert [kernel.by_bytes for kernel in drawn.kernels] == pytest.approx([100, 25, 100 * 16 / 2848], abs=0.01)
    assert [kernel.by_macs for kernel in drawn.kernels] == [100, 0, 25]
    assert [format_of(kernel.color) for kernel in drawn.kernels] == ["int8", "fp32", "fp16"]
    assert [kernel.marks for kernel in drawn.kernels] == [(), ("unfused Q/DQ",), ("fused attention",)]
    assert drawn.kernels[0].nodes == (NODES["conv"], NODES["relu"])
    assert ("writes", "h", "FP16 1x4x6x6") in drawn.kernels[0].tensors
    assert {(format_of(color), count) for color, _, count in drawn.legend} == {("int8", 1), ("fp32", 1), ("fp16", 1)}


def test_macs_stand_once_at_the_kernel_that_multiplies() -> None:
    before = COPY.model_copy(update={"name": "before", "nodes": ("conv",)})
    after = COPY.model_copy(update={"name": "after", "nodes": ("conv", "relu")})
    only = COPY.model_copy(update={"name": "only", "nodes": ("softmax",)})  # no GEMM kernel names it: still counted
    drawn = pictures.engine_picture([], EngineReport(source="", layers=(before, CONV, after, only)), NODES).kernels
    assert [kernel.macs for kernel in drawn] == ["", "3 k", "", "750"]
    assert [kernel.marks for kernel in drawn] == [("prologue",), (), ("epilogue",), ()]


def test_weights_and_traffic_against_float16() -> None:
    """In float16 the weights take twice the bytes; the engine's input stays, and there is no separate Quantize."""
    io = IOContract(inputs=(TensorSpec(name="x", dtype="int8", shape=(1, 16, 10, 10)),), outputs=())
    record = EngineRecord(flavor="f", version="1", target="sm89", io=io, build_seconds=1, report=REPORT)
    weights, traffic = pictures.against_half({"sm89": record, "sm90": record.model_copy(update={"report": None})})
    assert [(bar.label, bar.text) for bar in weights.bars] == [
        ("sm89", "960 B"),
        ("sm89, in fp16 (estimate)", "1.9 kB"),
    ]
    assert [bar.length for bar in weights.bars] == [50.0, 100.0]
    inside = {"sm89": 1600 + 960 + 288 + 400 + 312 + 16, "half": 1600 + 2 * 960 + 288 + 16}
    assert traffic.bars[0].length == pytest.approx(100 * inside["sm89"] / inside["half"], abs=0.01)
    assert pictures.against_half({"sm90": record.model_copy(update={"report": None})}) == ()


def test_an_unknown_type_has_the_last_color() -> None:
    layer = EngineLayer(name="k", kind="kgen", inputs=(tensor("x", "Complex", 4),))
    [kernel] = pictures.engine_picture(["sm89"], EngineReport(source="t", layers=(layer,)), {}).kernels
    assert (kernel.color, kernel.type, kernel.by_macs) == (pictures.OTHER_COLOR, "Complex", 0)


def test_many_values_are_joined_and_the_highest_counts() -> None:
    values = np.zeros(1000)
    values[501] = 2.0
    values[999] = 1.0
    drawn = pictures.columns("t", values.tolist(), unit=" ms", kind="sample")
    assert len(drawn.heights) <= 240
    assert drawn.heights[100] == 100
    assert drawn.heights[-1] == 50
    assert sum(height > 0 for height in drawn.heights) == 2
    assert drawn.names[100].startswith("samples 500 to 504")
    assert (drawn.first, drawn.last, drawn.highest) == ("sample 0", "sample 999", "2 ms")


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [float("inf"), 1.0], [float("nan"), 1.0]])
def test_odd_values_still_make_a_drawing(values: list[float]) -> None:
    drawn = pictures.columns("t", values, unit="", kind="sample")
    assert len(drawn.heights) == len(values)
    assert all(0 <= height <= 100 for height in drawn.heights)


def test_sensitivity_most_first_and_along_the_depth() -> None:
    groups = tuple(
        GroupSensitivity(name=name, nodes=(name,), operators=("Conv",), macs=10, noise=noise)
        for name, noise in (("a", 0.1), ("b", 0.4), ("c", 0.2))
    )
    found = Sensitivity(precision="int8", data="d", samples=4, groups=groups, all_noise=0.7)
    assert [bar.label for bar in pictures.sensitivity_bars(found).bars] == ["b", "c", "a"]
    assert [bar.length for bar in pictures.sensitivity_bars(found).bars] == [100, 50, 25]
    assert pictures.along_the_depth(found).heights == (25, 100, 50)


def test_a_measurement_has_a_scale_of_its_own_and_its_clocks() -> None:
    times = dict.fromkeys(("mean", "p95", "cov"), 4.0) | {"min": 1, "median": 2, "p90": 3, "p99": 3.5, "max": 4}
    warm = DeviceState(name="a GPU", sm_mhz=2000, max_sm_mhz=2500, temperature=41)
    found = Latency(
        **times, artifact="engine:sm89", runner="a GPU", on_gpu=True, shapes={"x": (1, 8)}, warmup_seconds=0.2,
        iterations=9, throughput_qps=500, windows=(1.0, 2.0), before=warm,
        after=warm.model_copy(update={"sm_mhz": 1000, "throttled": ("SW thermal slowdown",)}),
    )  # fmt: skip
    drawn = pictures.measured(found)
    assert drawn.title == "engine:sm89, x:1x8"
    assert [bar.length for bar in drawn.distribution.bars] == [25, 50, 75, 87.5, 100]
    assert drawn.windows is not None
    assert drawn.windows.heights == (50, 100)
    assert drawn.clocks is not None
    assert [(bar.text, bar.length) for bar in drawn.clocks.bars] == [("2000 MHz", 80), ("1000 MHz", 40)]
    assert "throttled: SW thermal slowdown" in drawn.clocks.note
    bare = pictures.measured(found.model_copy(update={"windows": (1.0,), "before": None, "after": None}))
    assert (bare.windows, bare.clocks) == (None, None)
