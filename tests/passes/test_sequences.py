"""Sequences of tensors against what they are written as: both run by onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import model, normal, run

from trtpipe.passes.clean_up import clean_up
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.sequences import WriteSequences, varying_sequence

X = "(float[2,6,3] x) => "
TWO = "two = Constant<value_int=2>() "
CASES = {
    "a piece of equal ones": f"{X} (float[2,2,3] y) {{ {TWO} s = SplitToSequence<axis=1>(x, two) "
    "i = Constant<value_int=1>() y = SequenceAt(s, i) }",
    "the last piece": f"{X} (float[2,2,3] y) {{ {TWO} s = SplitToSequence<axis=1>(x, two) "
    "i = Constant<value_int=-1>() y = SequenceAt(s, i) }",
    "a piece that is shorter": f"{X} (float[2,2,3] y) {{ n = Constant<value_int=4>() "
    "s = SplitToSequence<axis=-2>(x, n) i = Constant<value_int=1>() y = SequenceAt(s, i) }",
    "pieces of given lengths": f"{X} (float[2,3,3] y) {{ n = Constant<value_ints=[1,3,2]>() "
    "s = SplitToSequence<axis=1>(x, n) i = Constant<value_int=1>() y = SequenceAt(s, i) }",
    "single ones": f"{X} (float[2,3] y) {{ s = SplitToSequence<axis=1,keepdims=0>(x) "
    "i = Constant<value_int=4>() y = SequenceAt(s, i) }",
    "put together again": f"{X} (float[2,6,3] y) {{ {TWO} s = SplitToSequence<axis=1>(x, two) "
    "y = ConcatFromSequence<axis=1>(s) }",
    "stacked": f"{X} (float[2,2,6,3] y) {{ n = Neg(x) s = SequenceConstruct(x, n) "
    "y = ConcatFromSequence<axis=1,new_axis=1>(s) }",
    "one more and one less": f"{X} (float[4,6,3] y) {{ n = Neg(x) a = Abs(x) s = SequenceConstruct(x, n) "
    "i = Constant<value_int=1>() t = SequenceInsert(s, a, i) z = Constant<value_int=0>() u = SequenceErase(t, z) "
    "y = ConcatFromSequence<axis=0>(u) }",
    "how many": f"{X} (int64 y) {{ {TWO} s = SplitToSequence<axis=1>(x, two) y = SequenceLength(s) }}",
    "begun with none": f"{X} (float[2,6,3] y) {{ e = SequenceEmpty() s = SequenceInsert(e, x) "
    "i = Constant<value_int=0>() y = SequenceAt(s, i) }",
}


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same(name: str, opset: int) -> None:
    proto = model(CASES[name], opset=opset)
    loaded = ir.serde.deserialize_model(proto)
    clean_up(loaded)
    run_passes(loaded, (WriteSequences(),))
    clean_up(loaded)
    result = ir.serde.serialize_model(loaded)
    assert not [node.op_type for node in result.graph.node if "Sequence" in node.op_type]
    feed = {"x": normal(2, 6, 3)}
    for output, values in run(proto, feed).items():
        np.testing.assert_array_equal(run(result, feed)[output], values)


@pytest.mark.parametrize(
    "text",
    [
        f"{X[:-4]}, int64 i) => (float[2,2,3] y) {{ {TWO} s = SplitToSequence<axis=1>(x, two) y = SequenceAt(s, i) }}"
        .replace("(float[2,6,3] x)", "(float[2,6,3] x"),
        f"(float[2,N,3] x) => (float[2,2,3] y) {{ {TWO} s = SplitToSequence<axis=1>(x, two) "
        "i = Constant<value_int=-1>() y = SequenceAt(s, i) }",
    ],
    ids=["a position that is computed", "from the end of unknown length"],
)  # fmt: skip
def test_what_cannot_be_told_stays(text: str) -> None:
    loaded = ir.serde.deserialize_model(model(text))
    clean_up(loaded)
    assert not run_passes(loaded, (WriteSequences(),))[0].modified
    assert "SequenceAt" in [node.op_type for node in loaded.graph]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("s = SplitToSequence<axis=1>(x) y = SequenceAt(s, i)", "SequenceAt"),
        ("s = SplitToSequence<axis=1>(x) j = Neg(i) t = SequenceErase(s, j) k = Constant<value_int=0>() "
         "y = SequenceAt(t, k)", "SequenceErase"),
        ("s = SplitToSequence<axis=1>(x, i) k = Constant<value_int=0>() y = SequenceAt(s, k)", "SplitToSequence"),
        ("s = SplitToSequence<axis=1>(x) k = Constant<value_int=0>() y = SequenceAt(s, k)", None),
        ("s = SplitToSequence<axis=1>(x) n = Size(i) y = SequenceAt(s, n)", None),
    ],
)  # fmt: skip
def test_a_position_that_an_input_decides_is_named(text: str, named: str | None) -> None:
    proto = model(f"(float[2,6,3] x, int64 i) => (float[2,1,3] y) {{ {text} }}")
    reason = varying_sequence(ir.serde.deserialize_model(proto))
    assert reason is None if named is None else named in str(reason) and "'i'" in str(reason)
