from __future__ import annotations

from trtpipe.passes.decisions import NodeDecision
from trtpipe.quantization.decision_record import merged


def decision(node: str, precision: str, reason: str) -> NodeDecision:
    return NodeDecision(node=node, op="Conv", precision=precision, reason=reason, macs=9)


def test_what_became_of_every_node_with_both_reasons():
    eight = [decision("a", "int8", "weighted"), decision("b", "float32", "too narrow")]
    half = [
        decision("a", "float16", "fits"),
        decision("a_quantize", "float16", "fits"),
        decision("b", "float16", "fits"),
        decision("c", "float32", "too large"),
    ]
    found = {d.node: (d.precision, d.reason) for d in merged(eight, half, {"a", "b", "c"})}
    assert found == {
        "a": ("int8", "weighted; its results are float16"),
        "b": ("float16", "fits; not quantized: too narrow"),
        "c": ("float32", "too large"),
    }
