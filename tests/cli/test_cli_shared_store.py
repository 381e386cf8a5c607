"""A store that machines share, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Run: TypeAlias = Callable[..., Any]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TRTPIPE_STORE", f"file://{tmp_path}/shared")
    return tmp_path / "shared"


def test_a_second_machine_runs_no_stage(run: Run, model: Path, tmp_path: Path, shared: Path) -> None:
    """Two cache folders stand for two machines."""
    words = ("build", model, "--fp16", "--target", "sm89", "--backend", "null", "--json")
    first = json.loads(run(*words, "-o", tmp_path / "a", "--cache-dir", tmp_path / "cache-a").stdout)
    second = json.loads(run(*words, "-o", tmp_path / "b", "--cache-dir", tmp_path / "cache-b").stdout)
    assert "built" in {step["state"] for step in first["steps"]}
    assert {step["state"] for step in second["steps"]} <= {"hit", "skipped"}
    listed = json.loads(run("cache", "list", "--shared", "--json").stdout)
    assert len(listed["entries"]) == sum(step["state"] == "built" for step in first["steps"])
    assert run("cache", "verify", "--shared").exit_code == 0
    assert run("cache", "prune", "--shared", "--max-size", "1k").exit_code == 0
    assert json.loads(run("cache", "list", "--shared", "--json").stdout)["entries"] == []


def test_a_damaged_object_is_found(run: Run, model: Path, tmp_path: Path, shared: Path) -> None:
    run("export", model, "-o", tmp_path / "a", "--cache-dir", tmp_path / "cache")
    victim = next(path for path in (shared / "objects").glob("*/*") if path.stat().st_size > 1)
    victim.write_bytes(b"changed")
    assert run("cache", "verify", "--shared").exit_code == 6
    assert run("cache", "verify", "--shared").exit_code == 0


@pytest.mark.parametrize("url", ["http://store", "s3://me:hunter2@bucket"])
def test_what_is_no_address_is_refused_before_any_work(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("TRTPIPE_STORE", url)
    result = run("build", model, "--backend", "null", "--target", "sm89", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "hunter2" not in result.output
    assert not (tmp_path / "out").exists()


def test_none_is_known(run: Run) -> None:
    assert run("cache", "list", "--shared").exit_code == 2
