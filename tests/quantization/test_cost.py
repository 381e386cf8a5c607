from __future__ import annotations

import pytest

from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.quantization.engine_cost import KERNEL_BYTES, costs_by_node, engine_cost, layer_cost, operations


def tensor(name: str, dtype: str, *dims: int) -> EngineTensor:
    return EngineTensor(name=name, type=dtype, dims=dims)


def layer(kind, inputs, outputs, constants=(), nodes=(), name="k") -> EngineLayer:
    return EngineLayer(name=name, kind=kind, inputs=inputs, outputs=outputs, constants=constants, nodes=nodes)


def conv(dtype: str) -> EngineLayer:
    """A convolution of 64 to 128 channels, 3x3, on 28x28: 57.8 M multiplications an image."""
    return layer(
        "correlation", (tensor("x", dtype, -1, 64, 28, 28),), (tensor("y", "Half", -1, 128, 28, 28),),
        (tensor("w", dtype, 128, 64, 3, 3), tensor("b", "Half", 128)),
    )  # fmt: skip


def test_operations_of_a_convolution():
    assert operations(conv("Half"), 4) == 2 * 4 * 28 * 28 * 128 * 64 * 9


def test_operations_of_a_matrix_product_in_any_layout():
    data, result = tensor("x", "Half", 6, 32), tensor("y", "Half", 6, 48)
    for dims in ((32, 48), (48, 32), (1, 48, 32)):
        gemm = layer("gemm", (data,), (result,), (tensor("w", "Half", *dims), tensor("b", "Half", 48)))
        assert operations(gemm, 1) == pytest.approx(2 * 6 * 32 * 48)


def test_operations_of_a_batch_of_products():
    batch = layer("gemm", (tensor("a", "Half", 2, 4, 8, 16), tensor("b", "Half", 2, 4, 16, 8)),
                  (tensor("y", "Half", 2, 4, 8, 8),))  # fmt: skip
    assert operations(batch, 1) == pytest.approx(2 * 8 * 8 * 16 * 8)


def test_attention_is_two_products():
    heads, length, depth = 4, 128, 64
    attention = layer(
        "kgen", (tensor("q", "Half", heads, length, depth), tensor("k", "Half", heads, depth, length),
                 tensor("v", "Half", heads, length, depth)),
        (tensor("y", "Half", heads, length, depth),), name="_gemm_mha_v2_myl0_6",
    )  # fmt: skip
    assert operations(attention, 1) == 2 * (2 * heads * length * depth * length)


def test_elementwise_kernels_do_no_products():
    assert operations(layer("kgen", (tensor("x", "Half", 8),), (tensor("y", "Int8", 8),)), 1) == 0


def test_a_kernel_costs_its_bytes_or_its_arithmetic():
    moved = layer("kgen", (tensor("x", "Half", 1000),), (tensor("y", "Int8", 1000),))
    assert layer_cost(moved, 1) == KERNEL_BYTES + 3000
    busy = conv("Half")
    assert layer_cost(busy, 8) == KERNEL_BYTES + operations(busy, 8) / 128
    assert layer_cost(conv("Int8"), 8) == KERNEL_BYTES + operations(busy, 8) / 256, "8 bits are twice as fast"


CHAIN = (
    layer("kgen", (tensor("x", "Half", 500),), (tensor("q", "Int8", 500),)),
    layer("gemm", (tensor("q", "Int8", 500),), (tensor("a", "Half", 500),), nodes=("first", "relu")),
    layer("kgen", (tensor("a", "Half", 500),), (tensor("b", "Int8", 500),), nodes=("relu",)),
    layer("gemm", (tensor("b", "Int8", 500),), (tensor("c", "Half", 500),), nodes=("second", "third")),
    layer("kgen", (tensor("c", "Half", 500),), (tensor("y", "Half", 500),)),
    layer("kgen", (tensor("z", "Half", 500),), (tensor("o", "Half", 500),)),
)


def test_what_surrounds_a_node_is_part_of_its_price():
    report = EngineReport(source="s", layers=CHAIN)
    costs = costs_by_node([report], {"first", "second", "third"})
    before, product, after = (layer_cost(each, 1) for each in CHAIN[:3])
    assert costs["first"] == before + product + after
    assert costs["second"] == costs["third"] == (layer_cost(CHAIN[3], 1) + layer_cost(CHAIN[4], 1)) / 2
    assert sum(costs.values()) + layer_cost(CHAIN[5], 1) == engine_cost(report)
