"""Models that differ in one attribute and in their results get plans that differ (a sample; all with ``-m slow``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conformance_cases import Case
from models import model
from plan_equality import judge
from plan_equality_pairs import Computed, Group, differ, variants

ROOT = Path(__file__).parents[2]


def swept(folder: Path, *options: str) -> dict:
    """The summary of a sweep in a process of its own."""
    out = folder / "summary.json"
    command = [sys.executable, "benchmarks/plan_equality.py", "--workers", "2", "--out", str(out), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.exists(), ended.stderr
    summary: dict = json.loads(out.read_text(encoding="utf-8"))
    assert (ended.returncode == 0) == (not bad(summary)), ended.stdout
    return summary


def bad(summary: dict) -> list[dict]:
    return [each for each in summary["listed"] if each["outcome"] != "undecided"]


def one_group(groups: int) -> Computed:
    proto = model(
        f"(float[2,4,3] x) => (float[2,4,3] y) {{ y = GroupNormalization<num_groups={groups}>(x, s, s) }}",
        opset=21, s=np.array([1, 2, 3, 4], np.float32),
    )  # fmt: skip
    return Computed(str(groups), proto, [np.full((2, 4, 3), groups, np.float32)])


def test_what_the_importer_takes_for_another_operator_is_found_in_the_models_and_not_in_what_is_lowered():
    pytest.importorskip("tensorrt_rtx")
    feed = {"x": np.ones((2, 4, 3), np.float32)}
    group = Group("test_it", "GroupNormalization", "num_groups", (one_group(1), one_group(4)), feed)
    [raw], [lowered] = judge(group, raw=True), judge(group, raw=False)
    assert (raw.outcome, lowered.outcome) == ("same plan", "differ")
    assert raw.values == ("1", "4")


def test_two_models_with_equal_results_are_no_pair():
    group = Group("test_it", "GroupNormalization", "num_groups", (one_group(2), one_group(2)), {})
    assert group.pairs() == []


def test_flags_are_flipped_and_numbers_taken_from_the_tests():
    pool = model("(float[1,1,4,4] x) => (float[n] y) { y = AveragePool<kernel_shape=[2,2], count_include_pad=1>(x) }")
    case = Case("test_it", pool, {"x": np.ones((1, 1, 4, 4), np.float32)}, {}, ("AveragePool",), random=False)
    values = [each.value for each in variants([case], most=1) if each.attribute == "count_include_pad"]
    assert values == [0]


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [([1.0], [1.0 + 1e-9], False), ([1.0], [1.1], True), ([np.nan], [np.nan], False), ([1.0], [[1.0]], True)],
)
def test_differ(one, other, apart):
    assert differ([np.array(one)], [np.array(other)]) is apart


def test_a_sample_of_all_operators(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    summary = swept(tmp_path, "--every", "15", "--most", "1")
    assert summary["counts"]["differ"] >= 10
    assert not bad(summary), bad(summary)


@pytest.mark.slow
def test_all_of_them(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    summary = swept(tmp_path)
    assert summary["counts"]["differ"] >= 300
    assert not bad(summary), bad(summary)
