"""Kill sweeps, failing disks and races, each in a process that can fork cheaply (see driver.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def drive(job: str) -> Any:
    driver = Path(__file__).parent / "driver.py"
    answer = subprocess.run([sys.executable, str(driver), job], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_killed_at_any_step_the_store_holds_old_or_new_and_works_on() -> None:
    for scene, result in drive("kill").items():
        assert result["wrong"] == []
        assert result["statuses"] == [-9]
        assert result["steps"] >= (10 if scene == "lookup" else 20)


def test_whatever_call_fails_the_cause_is_named_and_nothing_is_lost() -> None:
    for result in drive("error").values():
        assert result["wrong"] == []
        assert 3 in result["statuses"]
        assert set(result["statuses"]) <= {0, 3}  # 0: a courtesy failed, such as the time stamp


def test_eight_processes_build_a_key_once_and_a_killed_builder_blocks_nobody() -> None:
    result = drive("race")
    assert result["killed"] == -9
    assert result["statuses"] == [0] * 8
    assert result["builds"] == 2  # the killed one, and one of the eight


@pytest.mark.parametrize("job", ["prune", pytest.param("prune long", marks=pytest.mark.slow)])
def test_prune_never_takes_what_is_being_read(job: str) -> None:
    result = drive(job)
    assert result["statuses"] == [0] * 10
    assert result["removed"] > 0
    assert result["over"] == 0
    assert result["corrupt"] == []


def test_a_power_cut_at_any_moment_leaves_old_or_new_and_what_was_finished_is_kept() -> None:
    for result in drive("power").values():
        assert result["wrong"] == []
        assert result["states"] >= 7


def test_a_disk_that_syncs_nothing_is_noticed() -> None:
    assert drive("lying disk")["wrong"]


def test_users_who_share_a_folder_never_get_what_another_one_wrote() -> None:
    script = Path(__file__).with_name("shared.py")
    answer = subprocess.run([sys.executable, str(script), "2"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert set(result["statuses"]) == {0}
    assert result["wrong"] == 0
    assert result["reads"] > 0
    assert result["removed"] > 0
    assert result["refused"] > 0 or os.geteuid() != 0
    assert (result["corrupt"], result["left"]) == ([], [])
