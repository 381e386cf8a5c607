"""Folders of ONNX files beside TensorRT's own parser: how results are read, and two files for real."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import peer_models
import pytest
from models import model, save
from peer_models import DOCS, Peer, compared, listed_reasons, read, shapes, summarize, table

if TYPE_CHECKING:
    from pathlib import Path

BUILT = Peer("a.onnx", "fp16", "takes", "", "builds", "builds", "", "", 1.0)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, False),
        ({"outcome": "gate failed"}, False),
        ({"outcome": "refused", "parser": "refuses"}, False),
        ({"outcome": "refused", "listed": "holds no graph"}, False),
        ({"outcome": "refused"}, True),
        ({"outcome": "hang", "parser": "refuses"}, True),
        ({"outcome": "crash", "listed": "holds no graph"}, True),
    ],
)
def test_what_must_not_be(changes: dict[str, str], wrong: bool) -> None:
    peer = replace(BUILT, **changes)
    assert peer.wrong == wrong
    assert ("(!)" in table([peer])) == wrong


def test_reasons_are_those_of_the_docs() -> None:
    reasons = listed_reasons(DOCS.read_text(encoding="utf-8"))
    assert "holds no graph" in reasons
    assert len(reasons) > 4
    assert listed_reasons("# Nothing\n\n| `a` | b |\n") == []


def test_results_are_read_back_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(asdict(BUILT)) + "\n", encoding="utf-8")
    assert read(path) == [BUILT]
    assert read(tmp_path / "none.jsonl") == []
    refused = replace(BUILT, parser="refuses", outcome="refused")
    found = summarize([BUILT, refused, refused])
    assert (found["files"], found["the parser takes"]) == (3, 1)
    assert found["of the others trtpipe"] == {"refused": 2}


def test_dimensions_with_a_name_get_a_length(tmp_path: Path) -> None:
    graph = "(float[N,3] x, float[?,4] z, float[2] s) => (float[N,3] y) { y = Neg(x) }"
    assert shapes(save(model(graph), tmp_path / "net.onnx")) == ["--shapes", "x:8x3"]
    (tmp_path / "no.onnx").write_bytes(b"no")
    assert shapes(tmp_path / "no.onnx") == []


@pytest.mark.slow
def test_one_that_builds_and_one_that_neither_takes(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    good = save(model("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }"), tmp_path / "good.onnx")
    bad = save(model("(float[2,3] x) => (float[2,3] y) { y = Nothing(x) }"), tmp_path / "bad.onnx")
    reasons = listed_reasons(DOCS.read_text(encoding="utf-8"))
    first, second = (compared(each.name, each, "fp16", tmp_path / "work", reasons) for each in (good, bad))
    assert (first.parser, first.builder, first.outcome) == ("takes", "builds", "builds")
    assert (second.parser, second.outcome) == ("refuses", "refused")
    assert "unknown operator Nothing" in second.message
    assert not any(each.wrong for each in (first, second))
    assert peer_models.raw(good)[0] == "takes"
