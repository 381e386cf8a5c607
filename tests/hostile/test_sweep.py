"""Hostile inputs through whole commands: a sample here, all of them with ``-m slow`` (see docs/robustness.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MOST_SECONDS, MOST_MEGABYTES = 60, 1000


def sweep(folder: Path, every: int) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("sweep.py")
    words = [sys.executable, str(script), str(folder), str(every)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["cases"] >= 150
    return list(found["results"])


def judge(results: list[dict[str, Any]]) -> None:
    assert [result for result in results if not result["fine"]] == []
    assert [result for result in results if result["trouble"]] == []
    assert [result for result in results if result["megabytes"] > MOST_MEGABYTES] == []
    assert [result for result in results if result["code"] and not result["said"]] == []


def test_some_hostile_inputs(tmp_path: Path) -> None:
    results = sweep(tmp_path, every=23)
    assert len(results) > 10
    judge(results)


@pytest.mark.slow
def test_all_hostile_inputs(tmp_path: Path) -> None:
    results = sweep(tmp_path, every=1)
    judge(results)
    assert [result for result in results if result["seconds"] > MOST_SECONDS] == []
