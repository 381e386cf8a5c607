"""Places that cannot hold what is written: output folders, cache folders, full disks, damaged cache entries."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.bad_input.conftest import Refused, Snapshot
    from tests.cli.conftest import Run

#: A folder in which nobody may make a file, not even root.
READ_ONLY = Path("/proc/self")


class TestOutput:
    @pytest.fixture
    def unwritable(
        self, run: Run, model: Path, earlier: Path, snapshot: Snapshot, quick: tuple[str, ...]
    ) -> Callable[[Path, int], str]:
        """Build into a place that cannot be written: refused before any work. Gives what is said to be wrong."""

        def build(out: Path, code: int) -> str:
            before = snapshot(earlier)
            result = run("build", model, "-o", out, *quick)
            assert result.exit_code == code, result.output
            error, remedy = result.stderr.splitlines()
            assert remedy.startswith("  try: ")
            assert remedy.endswith("choose another output folder with -o")
            assert snapshot(earlier) == before
            return error.removeprefix("error: ")

        return build

    @pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
    def test_file_in_the_way(self, unwritable: Callable[[Path, int], str], tmp_path: Path, below: str) -> None:
        mine = tmp_path / "mine"
        mine.write_text("precious")
        assert unwritable(mine / below, 2) == f"{mine}: a file, so {mine / below} cannot be a folder"
        assert mine.read_text() == "precious"

    def test_link_to_nothing(self, unwritable: Callable[[Path, int], str], tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "nowhere" / "out")
        assert unwritable(link, 2) == f"{link}: a link to nothing"

    @pytest.mark.skipif(not READ_ONLY.is_dir(), reason="needs /proc, which even root cannot write to")
    def test_read_only_file_system(self, unwritable: Callable[[Path, int], str]) -> None:
        assert unwritable(READ_ONLY / "out", 6).startswith(f"{READ_ONLY}: cannot be written to")

    def test_folder_without_permission(self, unwritable: Callable[[Path, int], str], tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        try:
            if os.access(tmp_path, os.W_OK):
                pytest.skip("this user, most likely root, may write everywhere")
            assert unwritable(tmp_path / "out", 6) == f"{tmp_path}: cannot be written to: Permission denied"
        finally:
            tmp_path.chmod(0o700)

    def test_name_that_is_too_long(self, run: Run, model: Path, tmp_path: Path, quick: tuple[str, ...]) -> None:
        result = run("build", model, "-o", tmp_path / ("x" * 300), *quick, "-q")
        assert result.exit_code == 6
        error, remedy = result.stderr.splitlines()[-2:]
        assert "name too long" in error
        assert remedy == "  try: shorten it, or choose another output folder with -o"

    @pytest.mark.parametrize("command", ["export", "simplify"])
    def test_single_stage_into_a_file_of_another_kind(
        self, run: Run, model: Path, tmp_path: Path, command: str
    ) -> None:
        mine = tmp_path / "notes.txt"
        mine.write_text("precious")
        result = run(command, model, "-o", mine)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0] == f"error: {mine}: a file, so {mine} cannot be a folder"
        assert mine.read_text() == "precious"


class TestCache:
    def test_that_is_a_file(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        mine = tmp_path / "mine"
        mine.write_text("precious")
        error, remedy = refused(model, "--cache-dir", mine, code=6)
        assert error == f"cannot use the cache {mine}: a file, not a folder"
        assert "--cache-dir" in remedy
        assert mine.read_text() == "precious"

    def test_below_a_file(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("precious")
        error, remedy = refused(model, "--cache-dir", tmp_path / "mine" / "cache", code=6)
        assert str(tmp_path / "mine") in error
        assert "--cache-dir" in remedy

    def test_open_to_other_users(self, refused: Refused, model: Path, tmp_path: Path) -> None:
        (tmp_path / "planted").touch()
        tmp_path.chmod(0o777)
        error, remedy = refused(model, "--cache-dir", tmp_path, code=6)
        assert error == f"cannot use the cache {tmp_path}: other users can write to it"
        assert remedy.startswith(f"chmod go-w {tmp_path}, or ")

    @pytest.mark.parametrize("name", ["lowered.onnx", "sm89.plan", "record.json"])
    def test_damaged_entry_is_told_and_made_again(
        self, run: Run, model: Path, cache: Path, earlier: Path, snapshot: Snapshot, tmp_path: Path,
        quick: tuple[str, ...], name: str,
    ) -> None:  # fmt: skip
        words = ("build", model, "-o", tmp_path / "out", "--fp16", *quick)
        stage = "compile" if name == "sm89.plan" else "lower"
        keys = {step["stage"]: step["key"] for step in json.loads(run(*words, "--json").stdout)["steps"]}
        (stored,) = (cache / "v1" / stage / keys[stage][:2]).glob(f"{keys[stage]}*/{name}")
        content = bytearray(stored.read_bytes())
        content[len(content) // 2] ^= 0x20
        stored.chmod(0o600)
        stored.write_bytes(content)
        before = snapshot(earlier)
        result = run(*words)
        assert result.exit_code == 0
        (warning,) = (line for line in result.stderr.splitlines() if line.startswith("warning: corrupt"))
        assert warning.startswith(f"warning: corrupt cache entry set aside, {stage}")
        assert str(stored.parent) in warning
        assert f"{'compile sm89' if stage == 'compile' else stage}: done in " in result.stderr
        assert snapshot(earlier) == before
        again = run(*words)
        assert again.exit_code == 0
        assert "done in" not in again.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    path = disk / "ballast"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (4096, 1):
            with suppress(OSError):
                while os.write(handle, bytes(size)):
                    pass
    finally:
        os.close(handle)
    return path


class TestFullDisk:
    def test_under_the_output(
        self, run: Run, model: Path, small_disk: Path, snapshot: Snapshot, quick: tuple[str, ...]
    ) -> None:
        out = small_disk / "out"
        assert run("build", model, "-o", out, *quick).exit_code == 0
        ballast = fill(small_disk)
        before = snapshot(out)
        result = run("build", model, "-o", out, *quick, "--bf16")
        assert result.exit_code == 6
        error, remedy = result.stderr.splitlines()[-2:]
        assert error.startswith("error: ")
        assert str(out) in error
        assert "No space left" in error or "no space left" in error
        assert remedy.endswith("choose another output folder with -o")
        assert snapshot(out) == before
        ballast.unlink()
        assert run("build", model, "-o", out, *quick, "--bf16").exit_code == 0

    def test_under_the_cache(
        self, run: Run, model: Path, refused: Refused, small_disk: Path, earlier: Path, quick: tuple[str, ...]
    ) -> None:
        cache = small_disk / "cache"
        assert run("build", model, "-o", earlier, *quick, "--cache-dir", cache).exit_code == 0
        ballast = fill(small_disk)
        error, remedy = refused(model, "--bf16", "--cache-dir", cache, code=6)
        assert str(cache) in error
        assert "no space left" in error.lower()
        assert remedy.startswith("free ")
        ballast.unlink()
        again = run("build", model, "-o", earlier, *quick, "--cache-dir", cache)
        assert again.exit_code == 0
        assert "done in" not in again.stderr, "what was there before is still there"

    @pytest.mark.parametrize("under", ["output", "cache"])
    def test_that_shows_only_when_files_are_flushed(
        self, refused: Refused, model: Path, cache: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch, under: str
    ) -> None:
        place = earlier if under == "output" else cache
        flush = os.fsync

        def fsync(handle: int) -> None:
            if os.path.realpath(f"/proc/self/fd/{handle}").startswith(str(place)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        error, remedy = refused(model, "--keep", under, code=6)
        assert "no space left" in error
        assert str(place) in error
        assert remedy.startswith("free some space there, or choose another ")
