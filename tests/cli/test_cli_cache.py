"""``trtpipe cache``."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from trtpipe.artifact import Draft
from trtpipe.cli.app import root
from trtpipe.store import ArtifactStore, Key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A cache with three entries of 1000 bytes, last used 40, 20 and 0 days ago."""
    folder = tmp_path / "own"
    with ArtifactStore(folder) as store:
        for days in (40, 20, 0):
            key = Key(
                stage="lower",
                stage_version=1,
                target=None,
                inputs={},
                settings={"days": days},
                toolchain={},
                backend={},
            )
            with store.workdir() as work:
                (work / "lowered.onnx").write_bytes(bytes(1000))
                artifact = store.put(key, Draft("lowered", work, ("lowered.onnx",)), seconds=1.0)
            then = time.time() - days * 86400
            os.utime(artifact.folder / "record.json", (then, then))
    return folder


@pytest.fixture
def cache(own: Path) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(root, ["cache", *words, "--cache-dir", str(own)])


class TestList:
    def test_least_recently_used_first(self, cache: Callable[..., Result], own: Path) -> None:
        result = cache("list")
        rows = [line for line in result.stdout.splitlines() if "lowered.onnx" in line]
        assert [row.split("kB")[1].split()[:3] for row in rows] == [
            ["40", "d", "ago"],
            ["20", "d", "ago"],
            ["just", "now", rows[2].split()[-1]],
        ]
        assert result.stdout.splitlines()[-1].startswith("3 entries, ")
        assert result.stdout.rstrip().endswith(str(own))

    def test_json(self, cache: Callable[..., Result]) -> None:
        document = json.loads(cache("list", "--json").stdout)
        assert [entry["key"]["settings"]["days"] for entry in document["entries"]] == [40, 20, 0]
        assert all(entry["files"][0]["size"] == 1000 for entry in document["entries"])

    def test_cache_that_is_not_there_is_empty(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(root, ["cache", "list", "--cache-dir", str(tmp_path / "none")])
        assert result.exit_code == 0
        assert result.stdout.startswith("0 entries, 0 B in ")
        assert not (tmp_path / "none").exists()

    def test_cache_that_others_can_write_is_refused(self, cache: Callable[..., Result], own: Path) -> None:
        own.chmod(0o777)
        result = cache("list")
        assert result.exit_code == 6
        assert result.stderr.splitlines() == [
            f"error: cannot use the cache {own}: other users can write to it",
            f"  try: chmod go-w {own}, or choose another folder with --cache-dir",
        ]


class TestVerify:
    def test_passes(self, cache: Callable[..., Result]) -> None:
        result = cache("verify")
        assert result.exit_code == 0
        assert result.stdout.startswith("PASSED | 3 entries, ")

    def test_corrupt_entry_is_named_and_exit_code_6(self, cache: Callable[..., Result], own: Path) -> None:
        broken = next(own.glob("v1/**/lowered.onnx"))
        broken.chmod(0o600)
        broken.write_bytes(bytes(999) + b"x")
        result = cache("verify", "--json")
        document = json.loads(result.stdout)
        assert result.exit_code == document["exit_code"] == 6
        assert [str(broken) in line for line in document["corrupt"]] == [True]
        assert cache("verify").exit_code == 0, "it was set aside"


class TestPrune:
    def test_by_age(self, cache: Callable[..., Result]) -> None:
        document = json.loads(cache("prune", "--max-age", "30d", "--json").stdout)
        assert (document["removed"], document["kept"], document["in_use"]) == (1, 2, 0)

    def test_by_size_keeps_the_latest(self, cache: Callable[..., Result]) -> None:
        result = cache("prune", "--max-size", "2K")
        assert result.stdout.startswith("removed 2 entries")
        (entry,) = json.loads(cache("list", "--json").stdout)["entries"]
        assert entry["key"]["settings"]["days"] == 0

    def test_without_limits_only_corrupt_entries_go(self, cache: Callable[..., Result]) -> None:
        assert json.loads(cache("prune", "--json").stdout)["kept"] == 3

    @pytest.mark.parametrize(
        ("option", "value", "fault"),
        [
            ("--max-age", "30", "has no unit"),
            ("--max-size", "30", "has no unit"),
            ("--max-age", "old", "is not a duration"),
            ("--max-size", "ten", "is not a size"),
        ],
    )
    def test_needs_units(self, cache: Callable[..., Result], option: str, value: str, fault: str) -> None:
        result = cache("prune", option, value)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0].startswith(f"error: {option}: '{value}' {fault}")


class TestClear:
    def test_asks_nobody_who_cannot_answer(self, cache: Callable[..., Result]) -> None:
        result = cache("clear")
        assert result.exit_code == 2
        assert result.stderr.splitlines()[1] == "  try: add --yes"
        assert json.loads(cache("prune", "--json").stdout)["kept"] == 3

    def test_yes(self, cache: Callable[..., Result]) -> None:
        assert json.loads(cache("clear", "--yes", "--json").stdout)["removed"] == 3
        assert cache("list").stdout.startswith("0 entries")
