from __future__ import annotations

import pytest

from trtpipe.engine.agreement import compare
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.passes.decisions import NodeDecision


def layer(kind: str, reads: str, writes: str, *nodes: str, name: str = "k") -> EngineLayer:
    def one(word: str) -> tuple[EngineTensor, ...]:
        return (EngineTensor(name="t", type=word, dims=(1,)),)

    return EngineLayer(name=name, kind=kind, inputs=one(reads), outputs=one(writes), nodes=nodes)


def judge(layers: list[EngineLayer], *lowered: tuple[str, str, str]):
    decisions = [NodeDecision(node=node, op=op, precision=precision, reason="r") for node, op, precision in lowered]
    return compare(decisions, EngineReport(source="s", layers=tuple(layers)))


def test_what_was_lowered_runs_so():
    [found] = judge([layer("correlation", "Int8", "Float", "c")], ("c", "Conv", "int8"), ("r", "Relu", "float32"))
    assert (found.precision, found.found, found.raised) == ("int8", 1, ())


def test_raised_nodes_are_named():
    layers = [layer("correlation", word, "Half", node) for node, word in (("stem", "Half"), ("a", "FP8"), ("b", "FP8"))]
    [found] = judge(layers, *((node, "Conv", "fp8") for node in ("stem", "a", "b")))
    assert found.raised == ("stem",)
    assert found.note == "the builder keeps 1 of 3 fp8 nodes in higher precision: stem"


def test_many_raised_nodes_are_counted_and_the_first_are_named():
    names = [f"n{index}" for index in range(20)]
    [found] = judge(
        [layer("gemm", "Half", "Half", name) for name in names], *((name, "Gemm", "int8") for name in names)
    )
    assert found.raised == tuple(names)
    assert "20 of 20 int8 nodes" in found.note
    assert found.note.endswith("n11 and 8 more")


def test_the_product_counts_not_the_kernel_that_quantizes_its_result():
    """A convolution in float32 whose result is quantized by a kernel that also names it."""
    layers = [layer("correlation", "Float", "Float", "c"), layer("kgen", "Float", "Int8", "c", "q")]
    [found] = judge(layers, ("c", "Conv", "int8"))
    assert found.raised == ("c",)


@pytest.mark.parametrize(("name", "raised"), [("__myl_CastReluCast_myl0_1", ()), ("__myl_Relu_myl0_1", ("r",))])
def test_a_generated_kernel_that_casts_inside_cannot_be_judged(name, raised):
    [found] = judge([layer("kgen", "Float", "Float", "r", name=name)], ("r", "Relu", "float16"))
    assert found.raised == raised


def test_sixteen_bits_are_served_by_kernels_around_eight():
    [found] = judge([layer("kgen", "Float", "Int8", "r")], ("r", "Relu", "float16"))
    assert found.raised == ()


def test_folded_nodes_are_not_judged():
    assert judge([layer("kgen", "Float", "Float", "x")], ("gone", "Mul", "float16")) == ()


def test_products_that_no_layer_names_need_their_type_somewhere():
    lowered = ("c", "Conv", "int8")
    [found] = judge([layer("correlation", "Float", "Float")], lowered)
    assert found.raised == ("c",)
    assert judge([layer("correlation", "Int8", "Float")], lowered) == ()
