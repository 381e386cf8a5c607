"""Entries that this user's key does not vouch for: never used, built again, said once, counted and pruned."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from trtpipe.config.authenticity import Mac
from trtpipe.digest import sha256_bytes
from trtpipe.store import ArtifactStore
from trtpipe.store.entry import RECORD, seal

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.store import Key

OTHER = Mac(b"k" * 32)


def forge(folder: Path, by: Mac | None) -> None:
    """Exchange the plan, and make every digest fit."""
    record = json.loads((folder / RECORD).read_text())["content"]
    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "sm89.plan").write_bytes(b"EVILPLAN" * 10)
    record["files"][0].update(sha256=sha256_bytes(b"EVILPLAN" * 10), size=80)
    (folder / RECORD).write_bytes(seal(record, by))


@pytest.mark.parametrize("by", [None, OTHER])
def test_a_resealed_entry_is_built_again(
    store: ArtifactStore, listener: Any, key: Key, build: Any, by: Mac | None
) -> None:
    forge(build(store, key).folder, by)
    assert store.peek(key) is None
    assert store.lookup(key) is None
    assert build(store, key).path.read_bytes() == b"engine"
    again = store.lookup(key)
    assert again is not None
    assert again.path.read_bytes() == b"engine"
    assert listener.warnings == []
    assert len(listener.notes) == 1
    assert "key" in listener.notes[0]


def test_it_is_said_once_however_many_there_are(store: ArtifactStore, listener: Any, key: Key, build: Any) -> None:
    keys = [key.model_copy(update={"stage_version": version}) for version in range(5)]
    for each in keys:
        forge(build(store, each).folder, OTHER)
    assert [store.lookup(each) for each in keys] == [None] * 5
    assert len(listener.notes) == 1


def test_entries_of_another_key_are_counted_and_pruned_and_ours_stay(
    store: ArtifactStore, key: Key, build: Any
) -> None:
    other = ArtifactStore(store.root, seal=OTHER)
    ours = key.model_copy(update={"target": "sm90"})
    with other:
        build(other, key)
    build(store, ours)
    report = store.verify()
    assert (report.checked, report.corrupt, report.foreign) == (2, (), 1)
    assert other.lookup(key) is not None  # it was left, for whoever has its key
    other.close()
    assert [found.entry.key for found in store.entries()] == [ours]
    pruned = store.prune()
    assert (pruned.removed, pruned.kept) == (1, 1)
    assert store.verify().foreign == 0
    assert store.lookup(ours) is not None


def test_remembered_values_of_another_key_are_none(store: ArtifactStore) -> None:
    with ArtifactStore(store.root, seal=OTHER) as other:
        other.remember("factory", {"identity": "forged"})
        assert other.recall("factory") == {"identity": "forged"}
    assert store.recall("factory") is None
    store.remember("factory", "ours")
    assert store.recall("factory") == "ours"


def test_an_entry_is_no_memo_and_a_memo_no_entry(store: ArtifactStore, key: Key, build: Any) -> None:
    """Both are sealed with the same key."""
    store.remember("one", 1)
    artifact = build(store, key)
    memo = next((store.root / "memo").iterdir())
    shutil.copyfile(artifact.folder / RECORD, memo)
    assert store.recall("one") is None


def test_a_cache_moves_with_its_key(tmp_path: Path, key: Key, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTPIPE_CACHE_KEY", "a secret of sixteen and more")
    with ArtifactStore(tmp_path / "here") as store:
        build(store, key)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another home"))
    with ArtifactStore(tmp_path / "there") as store:
        assert store.lookup(key) is not None
    monkeypatch.delenv("TRTPIPE_CACHE_KEY")
    with ArtifactStore(tmp_path / "there") as store:
        assert store.lookup(key) is None


def test_without_a_place_for_a_key_it_is_said(
    tmp_path: Path, listener: Any, key: Key, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with ArtifactStore(tmp_path / "cache", listener) as store:
        build(store, key)
        build(store, key.model_copy(update={"target": "sm90"}))
        assert store.lookup(key) is not None  # as long as this process lasts
    assert len(listener.notes) == 1
    assert "TRTPIPE_CACHE_KEY" in listener.notes[0]
