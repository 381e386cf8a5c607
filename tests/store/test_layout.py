from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trtpipe.errors import HostError
from trtpipe.store import ArtifactStore

if TYPE_CHECKING:
    from trtpipe.store import Key


def test_a_new_cache_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with ArtifactStore(tmp_path / "deep" / "cache") as store, store.workdir() as folder:
            made = [folder, *list(folder.parents)[:3]]
            assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700] * 4
    finally:
        os.umask(before)


def test_reading_creates_nothing(tmp_path: Path, key: Key) -> None:
    with ArtifactStore(tmp_path / "cache") as store:
        assert (store.lookup(key), store.peek(key), store.nearest(key), store.recall("fact")) == (None,) * 4
        assert (list(store.entries()), store.size(), store.verify().checked) == ([], 0, 0)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_cache_others_can_write_is_refused(tmp_path: Path, key: Key, build: Any, mode: int) -> None:
    root = tmp_path / "cache"
    with ArtifactStore(root) as store:
        build(store, key)
    root.chmod(mode)
    with pytest.raises(HostError, match="other users can write") as caught:
        ArtifactStore(root)
    assert "--cache-dir" in caught.value.remedy
    assert f"chmod go-w {root}" in caught.value.remedy
    root.chmod(0o755)
    with ArtifactStore(root) as store:
        assert store.lookup(key) is not None


def test_an_empty_folder_of_our_own_is_made_private(tmp_path: Path, key: Key, build: Any) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(0o777)
    with ArtifactStore(root) as store:
        build(store, key)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_another_users_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(HostError, match=rf"another user \(uid {os.getuid()}\)") as caught:
        ArtifactStore(tmp_path)
    assert "--cache-dir" in caught.value.remedy


def test_a_cache_that_becomes_open_to_others_is_refused_before_anything_is_written(tmp_path: Path, key: Key) -> None:
    with ArtifactStore(tmp_path / "cache") as store:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "planted").write_bytes(b"")
        (tmp_path / "cache").chmod(0o777)
        for work in (store.workdir(), store.lock(key)):
            with pytest.raises(HostError, match="other users can write"), work:
                pass
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["planted"]


def test_a_file_in_the_place_of_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="a file, not a folder"):
        ArtifactStore(tmp_path / "file")
    with ArtifactStore(tmp_path / "file" / "cache") as store:
        with pytest.raises(HostError, match="not a folder") as caught, store.workdir():
            pass
        assert "--cache-dir" in caught.value.remedy


def test_a_link_to_a_folder_is_followed_and_a_broken_one_refused(tmp_path: Path, key: Key, build: Any) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    with ArtifactStore(tmp_path / "cache") as store:
        build(store, key)
        assert store.lookup(key) is not None
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HostError, match="link to nothing"):
        ArtifactStore(tmp_path / "broken")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_cache_that_cannot_be_written_says_so() -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        os.seteuid(65534)
        try:
            with ArtifactStore(Path(parent, "cache")) as store:
                with pytest.raises(HostError, match="no permission") as caught, store.workdir():
                    pass
                assert f"{parent}/cache" in caught.value.message
                assert "--cache-dir" in caught.value.remedy
        finally:
            os.seteuid(0)


def test_the_entry_of_a_planted_file_is_not_used(store: ArtifactStore, key: Key, build: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    artifact = build(store, key)
    os.chown(artifact.path, 65534, 65534)
    assert store.lookup(key) is None


@pytest.mark.parametrize("which", ["v1", "v1/compile", "tmp", "locks", "memo", "corrupt"])
def test_links_below_the_root_are_not_followed(tmp_path: Path, key: Key, build: Any, which: str) -> None:
    root, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    (root / which).parent.mkdir(parents=True, mode=0o700)
    elsewhere.mkdir()
    (root / which).symlink_to(elsewhere)
    with (  # noqa: PT012  which step meets the link depends on where it is
        pytest.raises(HostError, match=rf"{which} is a link") as caught,
        ArtifactStore(root) as store,
    ):
        build(store, key)
        store.remember("fact", 1)
        next((root / "v1").glob("*/*/*")).joinpath("record.json").unlink()
        store.lookup(key)
    assert f"remove {root / which}" in caught.value.remedy
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system in which no folder can be made")
def test_a_place_where_no_folder_can_be_made():
    with (
        ArtifactStore(Path("/proc/nothing_here")) as store,
        pytest.raises(HostError, match="/proc/nothing_here") as caught,
        store.workdir(),
    ):
        pass
    assert "another program" not in str(caught.value)
