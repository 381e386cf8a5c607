"""Mutated models: a sample here, ten thousand with ``-m slow`` (see docs/robustness.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SEED = 1


def fuzz(count: int) -> dict[str, Any]:
    script = Path(__file__).with_name("driver.py")
    answer = subprocess.run(
        [sys.executable, str(script), str(count), str(SEED)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    found: dict[str, Any] = json.loads(answer.stdout)
    assert set(found["drivers"]) == {0}
    assert sum(found["endings"].values()) == count
    assert [told for told in found["told"] if told["ending"] == "bug"] == []
    return found


def test_some_mutants() -> None:
    found = fuzz(60)
    assert found["endings"]["refused by the pre-flight"] > 10
    assert len(found["endings"]) >= 3


@pytest.mark.slow
def test_ten_thousand_mutants() -> None:
    found = fuzz(10_000)
    assert found["slowest"] < 15
