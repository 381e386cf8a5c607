"""Builds that are killed, or meet a failing or full disk: at a few points here, at hundreds with ``-m slow``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs LD_PRELOAD and a C compiler"
)
may_mount = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
ERRORS = ("ENOSPC", "EIO", "EMFILE")


def sweep(ways: str, points: int) -> dict[str, Any]:
    script = Path(__file__).with_name("fault_build.py")
    words = [sys.executable, str(script), ways, str(points)]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return dict(json.loads(answer.stdout))


def judge(found: dict[str, Any], points: int) -> None:
    for way, result in found.items():
        assert result["wrong"] == [], way
        assert result["points"] == (1 if way == "short" else points)
    if "kill" in found:
        assert set(found["kill"]["statuses"]) == {"-9"}
    if "short" in found:
        assert set(found["short"]["statuses"]) == {"0"}
    if "ENOSPC" in found:
        assert found["ENOSPC"]["statuses"]["3"] > 0


def test_a_build_that_is_killed_or_whose_disk_fails_leaves_the_old_bundle_or_the_new_one() -> None:
    found = sweep("kill,ENOSPC,short", 2)
    assert set(found) == {"kill", "ENOSPC", "short"}
    judge(found, 2)


@may_mount
def test_a_disk_that_is_really_full() -> None:
    found = sweep("tmpfs", 1)
    judge(found, 1)
    assert found["tmpfs"]["statuses"] == {"3": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("ways", "points"), [("kill", 300), *((error, 100) for error in ERRORS), ("short", 1),
                                              ("handles", 60), ("file-size", 30)])  # fmt: skip
def test_all_points(ways: str, points: int) -> None:
    found = sweep(ways, points)
    assert set(found) == {ways}
    judge(found, points)


@may_mount
@pytest.mark.slow
def test_disks_of_many_sizes() -> None:
    found = sweep("tmpfs", 30)
    assert set(found) == {"tmpfs"}
    judge(found, 30)
