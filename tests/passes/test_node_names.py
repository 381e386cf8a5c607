from __future__ import annotations

import onnx_ir as ir
import pytest
from models import model

from trtpipe.passes.node_names import SOURCE_LINE, line_of, lines_of, pattern_of, restore_lines


@pytest.mark.parametrize(
    ("name", "patterns", "found"),
    [
        ("head/conv", ["tail*", "head*"], "head*"),
        ("head/conv", ["head/conv"], "head/conv"),
        ("head/conv", ["head"], None),
        ("Head/conv", ["head*"], None),
        ("layers[0]/MatMul", ["layers[0]/MatMul"], "layers[0]/MatMul"),
        ("layers0/MatMul", ["layers[0]/MatMul"], "layers[0]/MatMul"),
        ("layers[0]/MatMul", ["layers[[]0]/MatMul"], "layers[[]0]/MatMul"),
        ("any", [], None),
    ],
)
def test_a_node_is_meant_by_its_name_or_by_a_shell_pattern(name, patterns, found):
    assert pattern_of(name, patterns) == found


def test_lines_survive_tools_that_drop_metadata():
    proto = model("(float[2] x) => (float[2] y) { a = Relu(x) b = Neg(a) y = Abs(b) }")
    given = ir.serde.deserialize_model(proto)
    relu, neg, absolute = given.graph
    relu.metadata_props[SOURCE_LINE] = "net.py:12"
    trace = 'File "/u/top.py", line 3, in f\n  File "/u/net.py", line 7, in g'
    neg.metadata_props["pkg.torch.onnx.stack_trace"] = trace
    lines = lines_of(given)
    assert lines == {relu.name: "net.py:12", neg.name: "net.py:7"}
    bare = ir.serde.deserialize_model(proto)
    restore_lines(bare, lines)
    assert [line_of(node) for node in bare.graph] == ["net.py:12", "net.py:7", ""]
    assert not absolute.metadata_props
