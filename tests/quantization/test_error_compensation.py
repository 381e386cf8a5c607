from __future__ import annotations

import zlib
from base64 import b64encode
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, normal, run, with_outputs
from planning import prepared, settings

from trtpipe.calibration.corrections import Corrections, packed_steps, unpacked_steps
from trtpipe.config.formats import FP8, INT8
from trtpipe.passes.graph_pass import run_passes
from trtpipe.quantization.apply_corrections import WritePlan
from trtpipe.quantization.error_compensation import compensable, find_steps
from trtpipe.quantization.plan import plan
from trtpipe.quantization.qdq import quantized_kernel

if TYPE_CHECKING:
    from models import Feed

    from trtpipe.config.formats import Format
    from trtpipe.quantization.plan import QuantizationPlan

LAYERS = {
    "convolution": ("float[2,16,9,8] x", "float[2,16,a,b] y", "y = Conv<pads=[1,0,2,1],strides=[2,1]>(x, k)",
                    (16, 16, 3, 2)),
    "dilated": ("float[2,16,9,8] x", "float[2,16,a,b] y", "y = Conv<dilations=[2,3]>(x, k)", (16, 16, 3, 2)),
    "depthwise": ("float[2,16,9,8] x", "float[2,16,a,b] y", "y = Conv<group=16>(x, k)", (16, 1, 3, 3)),
    "groups": ("float[2,16,9,8] x", "float[2,32,a,b] y", "y = Conv<group=4>(x, k)", (32, 4, 3, 3)),
    "one dimension": ("float[2,16,20] x", "float[2,16,a] y", "y = Conv<pads=[2,2]>(x, k)", (16, 16, 5)),
    "Gemm": ("float[20,16] x", "float[20,24] y", "y = Gemm(x, k)", (16, 24)),
    "transposed Gemm": ("float[20,16] x", "float[20,24] y", "y = Gemm<transB=1>(x, k)", (24, 16)),
    "MatMul": ("float[2,20,16] x", "float[2,20,24] y", "y = MatMul(x, k)", (16, 24)),
}  # fmt: skip


def smooth_maps(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Values that are like their neighbors, as those of trained networks are."""
    values = normal(*shape, seed=seed).cumsum(axis=1).cumsum(axis=-1)
    return np.asarray(values / np.abs(values).max(), np.float32)


def layer(name: str, precision: str = "int8") -> tuple[onnx.ModelProto, ir.Model, QuantizationPlan]:
    given, made, node, shape = LAYERS[name]
    proto = model(f"({given}) => ({made}) {{ {node} }}", k=normal(*shape, seed=5))
    graph = prepared(proto)
    return proto, graph, plan(graph, settings(precision)).with_ranges({"x": 1.0})


def sizes(name: str) -> tuple[int, ...]:
    return tuple(int(size) for size in LAYERS[name][0].split("[")[1].split("]")[0].split(","))


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_sums_over_rows(name: str) -> None:
    proto, graph, quantization = layer(name)
    (found,) = compensable(graph, quantization)
    x = normal(*sizes(name), seed=1)
    rows = found.rows(x, 10**6)
    sums = np.einsum("gok,grk->rgo", found.weight, rows).reshape(rows.shape[1], -1)
    expected = run(proto, {"x": x})["y"]
    if found.windows:
        expected = np.moveaxis(expected, 1, -1)
    np.testing.assert_allclose(sums, expected.reshape(sums.shape), rtol=1e-3, atol=1e-4)
    assert found.rows(x, 7).shape == (rows.shape[0], 7, rows.shape[2])


def noise(proto: onnx.ModelProto, quantization: QuantizationPlan, feed: Feed) -> float:
    """Of what the weight alone changes, in dB over the signal."""
    written = prepared(proto)
    run_passes(written, [WritePlan(quantization)])
    lowered = ir.serde.serialize_model(written)
    onnx.checker.check_model(lowered, full_check=True)
    exact = with_outputs(lowered, [lowered.graph.node[-1].input[0], "y"])
    shown = run(exact, feed)
    inputs = next(iter(shown.values()))
    expected, found = run(proto, {"x": inputs})["y"], shown["y"]
    return float(10 * np.log10(np.square(found - expected).sum() / np.square(expected).sum()))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_change_less_on_other_samples(name: str, precision: str) -> None:
    proto, graph, quantization = layer(name, precision)
    values = ({"x": smooth_maps(seed, sizes(name))} for seed in range(8))
    steps = find_steps(compensable(graph, quantization), quantization, values, 8)
    better = quantization.with_corrections(Corrections(rounding=steps))
    other = {"x": smooth_maps(99, sizes(name))}
    assert noise(proto, better, other) < noise(proto, quantization, other) - 2


def test_a_weight_that_two_nodes_read_is_left_alone() -> None:
    proto = model(
        "(float[N,16] x) => (float[N,16] y) { a = MatMul(x, k) b = Relu(a) y = MatMul(b, k) }", k=normal(16, 16)
    )
    graph = prepared(proto)
    assert compensable(graph, plan(graph, settings()).with_ranges({"x": 1.0, "b": 1.0})) == ()


@pytest.mark.parametrize("form", [INT8, FP8])
def test_steps_lead_from_value_to_value(form: Format) -> None:
    _, _, quantization = layer("MatMul", form.name)
    (point,) = quantization.points
    weight = normal(16, 24, seed=5)
    nearest, scale = quantized_kernel(quantization, point, weight)
    for step in (0, 1, -3):
        steps = packed_steps(np.full(weight.shape, step, np.int8))
        found, same = quantized_kernel(
            quantization.with_corrections(Corrections(rounding={point.result: steps})), point, weight
        )
        assert found.dtype == form.dtype
        np.testing.assert_array_equal(same, scale)
        before, after = nearest.astype(np.float32), found.astype(np.float32)
        assert np.abs(after).max() <= form.largest
        inside = np.abs(before) < form.largest / 2
        assert (np.sign(after - before)[inside] == np.sign(step)).all()
    assert nearest.tobytes() == quantized_kernel(quantization, point, weight)[0].tobytes()


def test_steps_of_another_model_are_ignored() -> None:
    assert unpacked_steps(packed_steps(np.zeros(5, np.int8)), 6) is None
    assert unpacked_steps("", 6) is None
    huge = b64encode(zlib.compress(bytes(1 << 24))).decode()
    assert unpacked_steps(huge, 6) is None
    assert unpacked_steps(b64encode(b"no zlib").decode(), 6) is None
