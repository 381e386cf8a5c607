from __future__ import annotations

import pytest

from trtpipe.engine.agreement import compare, departures, narrowed
from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
from trtpipe.passes.decisions import NodeDecision


def layer(kind: str, reads: str, writes: str, *nodes: str, name: str = "k", weights: str = "") -> EngineLayer:
    """Constants are weights of type ``weights``, if one is given, and the scaling factor of a Conv layer."""

    def one(word: str, *dims: int) -> tuple[EngineTensor, ...]:
        return (EngineTensor(name="t", type=word, dims=dims or (1,)),)

    constants = (*one(weights, 8, 8, 3, 3), *one("Float")) if weights else ()
    return EngineLayer(name=name, kind=kind, inputs=one(reads), constants=constants, outputs=one(writes), nodes=nodes)


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


class TestNarrowed:
    """Layers as TensorRT-RTX 1.7 reports them of graphs with nodes kept in float32 between nodes in float16."""

    def of(self, op: str, *layers: EngineLayer, precision: str = "float32") -> tuple[str, ...]:
        decision = NodeDecision(node="n", op=op, precision=precision, reason="kept by pattern")
        return narrowed([decision], EngineReport(source="s", layers=layers))

    @pytest.mark.parametrize(("weights", "found"), [("Half", ("n",)), ("BFloat16", ("n",)), ("Float", ())])
    def test_a_convolution_has_the_type_of_its_weights(self, weights: str, found: tuple[str, ...]) -> None:
        assert self.of("Conv", layer("correlation", "Half", "Half", "n", weights=weights)) == found
        fused = layer("runtime_fusion", "Half", "Half", "n", weights=weights, name="__myl_CorrCastSigmCast_myl0_2")
        assert self.of("Conv", fused) == found

    def test_casts_inside_a_kernel_hide_what_a_node_without_weights_computes_in(self) -> None:
        assert self.of("Sigmoid", layer("kgen", "Half", "Half", "n", name="__myl_CastSigmCast_myl0_1")) == ()
        assert self.of("Sigmoid", layer("kgen", "Half", "Half", "n", name="__myl_Sigm_myl0_1")) == ("n",)
        fused = layer("runtime_fusion", "Half", "Half", "n", weights="Half", name="__myl_CorrCastSigmCast_myl0_2")
        assert self.of("Sigmoid", fused) == ()

    def test_one_layer_in_float32_is_enough(self) -> None:
        layers = layer("kgen", "Half", "Half", "n", name="a"), layer("kgen", "Half", "Float", "n", name="b")
        assert self.of("Softmax", *layers) == ()

    def test_softmax_inside_a_fused_attention_is_not_judged(self) -> None:
        assert self.of("Softmax", layer("kgen", "Half", "Half", "n", name="_gemm_mha_v2_0")) == ()

    @pytest.mark.parametrize("op", ["Relu", "MaxPool", "Transpose", "Concat"])
    def test_what_rounding_commutes_with_loses_nothing(self, op: str) -> None:
        assert self.of(op, layer("kgen", "Half", "Half", "n")) == ()

    def test_only_nodes_in_float32_count(self) -> None:
        assert self.of("Conv", layer("correlation", "Half", "Half", "n", weights="Half"), precision="float16") == ()
        assert self.of("Conv", layer("correlation", "Int8", "Half", "q", weights="Int8")) == ()
        assert self.of("ArgMax", layer("kgen", "Int64", "Bool", "n")) == ()

    def test_the_sentence_names_the_nodes(self) -> None:
        report = EngineReport(source="s", layers=(layer("correlation", "Half", "Half", "stem", weights="Half"),))
        [words] = departures([NodeDecision(node="stem", op="Conv", precision="float32", reason="r")], report)
        assert "1 of the nodes left in float32 in 16 bits: stem;" in words
