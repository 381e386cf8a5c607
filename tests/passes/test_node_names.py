from __future__ import annotations

import pytest

from trtpipe.passes.node_names import pattern_of


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
