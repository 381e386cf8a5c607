from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trtpipe.artifact import Draft
from trtpipe.config.authenticity import UserKey
from trtpipe.errors import HostError, InternalError, StoreCorrupt
from trtpipe.store import ArtifactStore, Key

if TYPE_CHECKING:
    from conftest import Listener

CONTENT = {"sm89.plan": b"engine", "sm89.plan.json": b"{}"}


def draft(folder: Path, content: dict[str, bytes] = CONTENT) -> Draft:
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return Draft("engine", folder, tuple(content), "sm89")


def test_what_was_put_is_found_by_any_other_process(store: ArtifactStore, key: Key, tmp_path: Path) -> None:
    with store.workdir() as folder:
        made = store.put(key, draft(folder), 2.5)
        assert list(folder.iterdir()) == []
    code = (
        "import sys; from pathlib import Path; from trtpipe.store import ArtifactStore, Key;"
        "a = ArtifactStore(Path(sys.argv[1])).lookup(Key.read(Path(sys.argv[2]))); print(a.path, a.digest)"
    )
    key.write(tmp_path / "key.json")
    answer = subprocess.run(
        [sys.executable, "-c", code, str(store.root), str(tmp_path / "key.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == [str(made.path), made.digest]
    assert (made.kind, made.target, made.path.read_bytes()) == ("engine", "sm89", b"engine")
    assert store.lookup(key) == made
    entry = store.peek(key)
    assert entry is not None
    assert (entry.seconds, entry.key) == (2.5, key)


def test_the_place_of_an_entry_follows_from_its_key(store: ArtifactStore, key: Key, build: Any) -> None:
    folder = build(store, key).folder
    assert folder.parent == store.root / "v1" / "compile" / key.digest[:2]
    assert folder.name.startswith(f"{key.digest}-")
    other = ArtifactStore(store.root, seal=UserKey("of somebody else", None))
    assert other.lookup(key) is None
    assert build(other, key).folder not in (folder, None)
    assert store.lookup(key) is not None, "what is read under one key stays while another one is used"


def test_stored_files_are_read_only(store: ArtifactStore, key: Key, build: Any) -> None:
    artifact = build(store, key, CONTENT)
    assert [stat.S_IMODE((artifact.folder / name).stat().st_mode) for name in CONTENT] == [0o444, 0o444]


def test_files_outside_the_store_are_copied(store: ArtifactStore, key: Key, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made = store.put(key, draft(tmp_path / "out"), 0)
    (tmp_path / "out" / "sm89.plan").write_bytes(b"edited")
    assert made.path.read_bytes() == b"engine"
    assert store.lookup(key) == made


def test_another_key_is_another_entry(store: ArtifactStore, key: Key, build: Any) -> None:
    other = key.model_copy(update={"inputs": {"lowered": "1" * 64}})
    build(store, key, {"a": b"one"})
    assert store.lookup(other) is None
    assert store.peek(other) is None
    build(store, other, {"a": b"two"})
    found = [store.lookup(key), store.lookup(other)]
    assert [artifact and artifact.path.read_bytes() for artifact in found] == [b"one", b"two"]


def test_the_first_to_store_a_key_wins(store: ArtifactStore, key: Key, build: Any, listener: Listener) -> None:
    first = build(store, key, {"a": b"first"})
    with ArtifactStore(store.root) as other:
        assert build(other, key, {"a": b"second"}) == first
    assert first.path.read_bytes() == b"first"
    assert listener.warnings == []


def test_a_corrupt_entry_is_set_aside_reported_and_replaced(
    store: ArtifactStore, key: Key, build: Any, listener: Listener
) -> None:
    path = build(store, key).path
    path.chmod(0o644)
    path.write_bytes(b"enginE")
    assert store.peek(key) is not None
    assert store.lookup(key) is None
    assert len(listener.warnings) == 1
    assert "compile:sm89 is built again" in listener.warnings[0]
    assert str(path) in listener.warnings[0]
    (aside,) = (store.root / "corrupt").iterdir()
    assert (aside / "sm89.plan").read_bytes() == b"enginE"
    assert store.lookup(key) is None
    assert len(listener.warnings) == 1
    assert build(store, key).path.read_bytes() == b"engine"
    assert store.lookup(key) is not None


@pytest.mark.parametrize("wreck", ["empty", "file", "link"])
def test_put_replaces_whatever_stands_in_its_place(store: ArtifactStore, key: Key, build: Any, wreck: str) -> None:
    place = build(store, key).folder
    shutil.rmtree(place)
    match wreck:
        case "empty":
            place.mkdir()
        case "file":
            place.write_bytes(b"")
        case "link":
            place.symlink_to(store.root)
    assert build(store, key).path.read_bytes() == b"engine"
    assert store.verify().corrupt == ()


def test_a_place_that_cannot_be_freed_is_an_error(
    store: ArtifactStore, key: Key, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = build(store, key).folder
    (place / "sm89.plan").unlink()
    monkeypatch.setattr("trtpipe.store.maintenance.quarantine", lambda *_: False)
    with pytest.raises(StoreCorrupt, match="cannot be replaced"):
        build(store, key)


def test_a_stage_that_breaks_its_promise_leaves_nothing(store: ArtifactStore, key: Key, tmp_path: Path) -> None:
    for name in ("missing", "../outside", "record.json", "sub/file"):
        with store.workdir() as folder, pytest.raises(InternalError, match=name):
            store.put(key, Draft("engine", folder, (name,)), 0)
    assert store.lookup(key) is None
    assert list((store.root / "tmp").iterdir()) == []


def test_a_full_disk_names_the_folder_and_the_need(
    store: ArtifactStore, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with store.workdir():
        pass
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(HostError) as caught:
            store.put(key, draft(tmp_path, {"big": bytes(2_500_000)}), 0)
    assert f"no space left in {store.root}" in caught.value.message
    assert "needs 2.5 MB" in caught.value.message
    assert "--cache-dir" in caught.value.remedy
    assert store.lookup(key) is None
    assert list((store.root / "tmp").glob("*")) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    if (
        os.geteuid() != 0
        or not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path, key: Key, build: Any, tmp_path: Path) -> None:
    with ArtifactStore(tiny_disk / "cache") as store:
        kept = build(store, key)
        other = key.model_copy(update={"target": "sm90"})
        with pytest.raises(HostError, match="no space left"):
            store.put(other, draft(tmp_path, {"big": bytes(2 << 20)}), 0)
        assert store.lookup(other) is None
        assert store.lookup(key) == kept
        assert list((tiny_disk / "cache" / "tmp").iterdir()) == []
        assert store.put(other, draft(tmp_path, {"small": bytes(1 << 10)}), 0).size == 1 << 10


def test_a_cache_removed_under_way_is_said_to_be(store: ArtifactStore, key: Key) -> None:
    with store.workdir() as folder:
        made = draft(folder)
        shutil.rmtree(store.root)
        with pytest.raises(InternalError, match="a stage listed"):
            store.put(key, made, 0)


def test_lock_admits_one_at_a_time_and_says_who_waits(store: ArtifactStore, key: Key, listener: Listener) -> None:
    inside: list[str] = []
    free = threading.Event()

    def wait() -> None:
        with store.lock(key):
            inside.append("second")

    def wait_until_noted() -> None:
        while not listener.notes:
            free.wait(0.01)

    with store.lock(key):
        thread = threading.Thread(target=wait)
        thread.start()
        wait_until_noted()
        inside.append("first")
    thread.join()
    assert inside == ["first", "second"]
    assert listener.notes == ["waiting for another process that builds compile:sm89"]


def test_locks_of_different_keys_are_independent(store: ArtifactStore, key: Key) -> None:
    folder = store.root / "locks"
    with store.lock(key):
        one = {path.name for path in folder.iterdir()}
        with store.lock(Key(stage="lower")):
            both = {path.name for path in folder.iterdir()}
    assert len(one) == 1
    assert one < both
    assert len(both) == 2


def test_nearest_names_the_fewest_changes(store: ArtifactStore, build: Any) -> None:
    base = {"stage": "lower", "inputs": {"ranges": "a"}}
    asked = Key(**base, settings={"percentile": 99.9, "keep": []})
    assert store.nearest(asked) is None
    build(store, Key(**base, settings={"percentile": 99.0, "keep": ["conv"]}))
    assert store.nearest(asked) == ("settings.keep", "settings.percentile")
    build(store, Key(**base, settings={"percentile": 99.0, "keep": []}))
    assert store.nearest(asked) == ("settings.percentile",)
    build(store, Key(stage="simplify", settings={"percentile": 99.9, "keep": []}))
    assert store.nearest(asked) == ("settings.percentile",)


def test_nearest_stays_with_the_target_and_skips_the_unreadable(store: ArtifactStore, key: Key, build: Any) -> None:
    build(store, key.model_copy(update={"target": "sm90"}))
    assert store.nearest(key) is None
    build(store, key)
    assert store.nearest(key) is None
    broken = build(store, key.model_copy(update={"stage_version": 1}))
    assert store.nearest(key) == ("stage_version",)
    (broken.folder / "record.json").unlink()
    assert store.nearest(key) is None


def test_nearest_looks_at_the_most_recent_fifty(store: ArtifactStore, build: Any) -> None:
    old = build(store, Key(stage="lower", settings={"a": 0, "b": 0}))
    os.utime(old.folder / "record.json", (1, 1))
    for number in range(50):
        build(store, Key(stage="lower", settings={"a": 1, "b": 1, "c": number}))
    assert store.nearest(Key(stage="lower", settings={"a": 0, "b": 1})) == ("settings.a", "settings.c")


def test_small_facts(store: ArtifactStore) -> None:
    assert store.recall("files") is None
    for value in ([["a.py", "0" * 64]], {"x": 1.5}, None, "text"):
        store.remember("files", value)
        assert store.recall("files") == value
    store.remember("../../etc/passwd\n", 1)
    assert store.recall("../../etc/passwd\n") == 1
    assert store.recall("files") == "text"
    assert {path.parent for path in (store.root / "memo").rglob("*")} == {store.root / "memo"}
    assert list((store.root / "tmp").iterdir()) == []


def test_a_damaged_fact_is_forgotten(store: ArtifactStore) -> None:
    store.remember("a", {"x": 1})
    store.remember("b", 2)
    (one,) = [path for path in (store.root / "memo").iterdir() if b'"a"' in path.read_bytes()]
    good = one.read_bytes()
    for bit in range(8 * len(good)):
        one.write_bytes(good[: bit // 8] + bytes([good[bit // 8] ^ 1 << bit % 8]) + good[bit // 8 + 1 :])
        assert store.recall("a") is None
    for length in range(len(good)):
        one.write_bytes(good[:length])
        assert store.recall("a") is None
    (other,) = [path for path in (store.root / "memo").iterdir() if path != one]
    shutil.copy(other, one)
    assert store.recall("a") is None
    store.remember("a", 3)
    assert store.recall("a") == 3


def test_a_cache_on_a_read_only_disk_still_serves(
    store: ArtifactStore, key: Key, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(store, key)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("utime", "mkdir", "rename"):
        monkeypatch.setattr(os, name, refuse)
    assert store.lookup(key) == made


def test_a_store_that_is_dropped_lets_go_of_its_handles(tmp_path: Path, key: Key, build: Any) -> None:
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    dropped = ArtifactStore(tmp_path / "cache")
    build(dropped, key)
    del dropped
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208
