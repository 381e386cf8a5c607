from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from trtpipe.durable import copy_new, replace_file, sync_folder, write_new
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def test_write_new_never_overwrites_and_never_follows(tmp_path: Path) -> None:
    path, link = tmp_path / "new", tmp_path / "link"
    data = os.urandom(3 << 20)
    write_new(path, data)
    link.symlink_to(tmp_path / "elsewhere")
    for taken in (path, link):
        with pytest.raises(FileExistsError):
            write_new(taken, b"other")
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_write_new_survives_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data[:7])))
    write_new(tmp_path / "new", b"0123456789" * 10)
    monkeypatch.undo()
    assert (tmp_path / "new").read_bytes() == b"0123456789" * 10


def test_copy_new_never_overwrites_and_never_follows(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for taken in ("source", "link"):
        with pytest.raises(FileExistsError):
            copy_new(tmp_path / "source", tmp_path / taken)
    copy_new(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"data"


def test_replace_file_keeps_the_permissions_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text("old")
    path.chmod(0o600)
    replace_file(path, b"new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_replace_file_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "baseline.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_replace_file_takes_no_place_that_is_not_a_files(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("mine")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim if kind == "link" else tmp_path / "nothing")
    before = os.lstat(path)
    with pytest.raises(InputError, match="where a file is to be written"):
        replace_file(path, b"new")
    assert os.path.samestat(before, os.lstat(path))
    assert victim.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_sync_folder_tolerates_a_file_system_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(code: int) -> None:
        def fsync(handle: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    refuse(22)  # EINVAL
    sync_folder(tmp_path)
    refuse(5)  # EIO
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
