"""Builds with user code in children, killed at random moments; many with the script itself (see docs/robustness.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


@pytest.mark.slow
def test_builds_that_are_killed_leave_no_process_and_no_half_bundle() -> None:
    script = Path(__file__).with_name("user_kills.py")
    answer = subprocess.run([sys.executable, str(script), "200", "1"], capture_output=True, text=True, check=False)
    assert answer.stdout, answer.stderr
    assert json.loads(answer.stdout)["failures"] == []
