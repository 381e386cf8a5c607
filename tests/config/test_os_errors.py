from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [
        (errno.ENOSPC, "no space left", "free some space"),
        (errno.EDQUOT, "quota", "free some space"),
        (errno.EACCES, "no permission", "mode"),
        (errno.EPERM, "not permitted", "mode"),
        (errno.EROFS, "read-only", "writable"),
        (errno.ENOTDIR, "not a folder", "out of the way"),
        (errno.ENAMETOOLONG, "name too long", "shorten"),
        (errno.EMFILE, "too many open files", "ulimit -n"),
        (errno.ENFILE, "too many open files", "ulimit -n"),
        (errno.EIO, "input/output error", "check the disk"),
        (errno.EFBIG, "file too large", "ulimit -f"),
        (errno.ENOLCK, "locks", "local disk"),
        (errno.ENOSYS, "file system", "local disk"),
    ],
)
def test_each_refusal_has_its_words(tmp_path: Path, code: int, words: str, hint: str) -> None:
    with pytest.raises(HostError) as caught, translate_os_errors(tmp_path, "store the engine"):
        raise OSError(code, os.strerror(code))
    assert caught.value.message.startswith("cannot store the engine: ")
    assert words in caught.value.message
    assert hint in caught.value.remedy
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone"), OSError("no number"), ValueError("other")])
def test_anything_else_passes(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translate_os_errors(tmp_path, "store"):
        raise error
    assert caught.value is error


def test_the_file_concerned_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="/there/it"), translate_os_errors(tmp_path, "read"):
        raise PermissionError(errno.EACCES, "denied", "/there/it")
    with pytest.raises(HostError, match=str(tmp_path)), translate_os_errors(tmp_path, "read"):
        raise PermissionError(errno.EACCES, "denied", 7)


def test_a_full_disk_says_how_much_is_needed_and_where(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    expected = rf"no space left in {folder} \(needs 1\.2 GB, .* free\)"
    with (
        pytest.raises(HostError, match=expected) as caught,
        translate_os_errors(folder, "copy", needed=1_200_000_000, elsewhere="choose another folder with -o"),
    ):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.remedy.endswith("or choose another folder with -o")


def test_a_real_missing_permission_and_a_real_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="not a folder"), translate_os_errors(tmp_path, "make a folder"):
        (tmp_path / "file" / "below").mkdir()
