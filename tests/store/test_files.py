from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from trtpipe.errors import InternalError, StoreCorrupt
from trtpipe.store.files import make_folder, names_in, open_plain, read_plain, take

if TYPE_CHECKING:
    from pathlib import Path


def test_make_folder_makes_private_parents_and_tolerates_existing_ones(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o700, 0o700]


@pytest.mark.parametrize("move", [True, False])
def test_take_makes_files_read_only(tmp_path: Path, move: bool) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(b"data")
    take(source, destination, move=move)
    assert destination.read_bytes() == b"data"
    assert stat.S_IMODE(destination.stat().st_mode) == 0o444
    assert source.exists() is not move


def test_take_does_not_move_a_file_that_has_a_second_name(tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(b"data")
    (tmp_path / "second").hardlink_to(source)
    take(source, destination, move=True)
    (tmp_path / "second").write_bytes(b"changed")
    assert destination.read_bytes() == b"data"


def test_take_refuses_what_is_not_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"secret")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe", "missing"):
        with pytest.raises(InternalError, match=name):
            take(tmp_path / name, tmp_path / "destination", move=False)
    assert not (tmp_path / "destination").exists()


@pytest.mark.parametrize("kind", ["missing", "link", "folder", "pipe", "socket", "device", "below-a-file"])
def test_only_plain_files_are_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "path"
    match kind:
        case "link":
            path.symlink_to(__file__)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            monkeypatch.chdir(tmp_path)  # a socket's path must be short
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("path")
        case "device":
            path = path.parent.parent.joinpath("/dev/null")
        case "below-a-file":
            path.write_bytes(b"")
            path = path / "name"
    with pytest.raises(StoreCorrupt):
        open_plain(path)


def test_files_of_another_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"planted")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreCorrupt, match="this user"):
        open_plain(tmp_path / "file")
    with pytest.raises(StoreCorrupt, match="this user"):
        names_in(tmp_path)


def test_a_lack_of_handles_is_not_taken_for_corruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    for read in (open_plain, names_in):
        with pytest.raises(OSError, match="Too many open files"):
            read(tmp_path)


def test_read_plain_stops_at_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_plain(tmp_path / "file", 5) == b"12345"
    with pytest.raises(StoreCorrupt, match="larger than 4"):
        read_plain(tmp_path / "file", 4)
