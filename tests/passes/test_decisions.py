from __future__ import annotations

import pytest

from trtpipe.errors import InputError
from trtpipe.passes.decisions import UNREACHED, NodeDecision, explain, shortfall, unmatched, work_share


def decision(node: str, precision: str, reason: str = "", macs: int | None = None) -> NodeDecision:
    return NodeDecision(node=node, op="Conv", precision=precision, reason=reason, macs=macs)


DECISIONS = (
    decision("/layer1/conv1/Conv", "int8", "a rule", 900),
    decision("/layer1/conv2/Conv", "float32", "kept by pattern", 60),
    decision("/layer2/conv1/Conv", "float32", "too narrow", 30),
    decision("/head/Conv", "float32", "kept by pattern", 10),
    decision("/relu", "float32", "activation"),
)


def test_the_share_of_the_work():
    assert work_share(DECISIONS).share == pytest.approx(0.9)
    assert work_share(DECISIONS).total == 1000
    assert work_share([]).share == 0, "never 100 % of nothing"


def test_work_that_no_sample_reached_is_told_apart():
    decisions = (*DECISIONS, decision("/then/Conv", "float32", UNREACHED, 1000))
    work = work_share(decisions)
    assert (work.total, work.unreached, work.share, work.share_reached) == (2000, 1000, 0.45, 0.9)
    assert work_share(decisions[-1:]).share_reached == 0, "never 100 % of nothing"
    assert shortfall([]) is None
    sentence = shortfall(decisions)
    assert sentence is not None
    assert "50.0 %: no calibration sample reached it" in sentence


def test_a_shortfall_names_the_largest_reasons_first():
    sentence = shortfall(DECISIONS)
    assert sentence is not None
    assert sentence.startswith("8-bit coverage: 90.0 % of MACs")
    assert sentence.index("7.0 %: kept by pattern") < sentence.index("3.0 %: too narrow")
    assert shortfall([decision("a", "fp8", macs=95), decision("b", "float32", macs=5)]) is None


def test_explaining_one_node_or_all_that_match():
    assert explain(DECISIONS, "/relu") == (DECISIONS[4],)
    assert explain(DECISIONS, "/layer1/*") == DECISIONS[:2]


def test_a_name_with_a_slip_is_answered_with_similar_ones():
    with pytest.raises(InputError, match="no node is called") as raised:
        explain(DECISIONS, "/layer1/conv1/conv")
    assert "/layer1/conv1/Conv" in raised.value.remedy
    with pytest.raises(InputError) as raised:
        explain(DECISIONS, "zzz")
    assert "trtpipe inspect" in raised.value.remedy


def test_patterns_that_match_nothing():
    assert unmatched(["/layer1/*", "/relu"], DECISIONS) == []
    [sentence] = unmatched(["*head*", "/layer2/conv9/Conv"], DECISIONS)
    assert sentence.startswith("--keep '/layer2/conv9/Conv' matches no node; similar names: ")
    assert "/layer2/conv1/Conv" in sentence
