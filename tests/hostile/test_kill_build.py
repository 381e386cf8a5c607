"""Builds killed at a few points here, at three hundred with ``-m slow`` (see docs/robustness.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("points", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_a_killed_build_leaves_the_old_bundle_or_the_new_one(points: int) -> None:
    script = Path(__file__).with_name("kill_build.py")
    answer = subprocess.run([sys.executable, str(script), str(points)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = json.loads(answer.stdout)
    assert found["wrong"] == []
    assert found["statuses"] == [-9]
    assert found["points"] == points < found["steps"]
