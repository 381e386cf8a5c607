from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from trtpipe.config.settings import user_key
from trtpipe.store import ArtifactStore, Key

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.artifact import Artifact


def numbered(number: int) -> Key:
    return Key(stage="lower", settings={"number": number})


def used(artifact: Artifact, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(artifact.folder / "record.json", (then, then))


@pytest.fixture
def three(store: ArtifactStore, build: Any) -> list[Artifact]:
    """Three entries, used 300, 200 and 100 seconds ago, which nobody reads any more."""
    artifacts = [build(store, numbered(number), {"file": bytes(1000 * (number + 1))}) for number in range(3)]
    for number, artifact in enumerate(artifacts):
        used(artifact, 300 - 100 * number)
    store.close()
    return artifacts


def left(store: ArtifactStore) -> list[int]:
    return [stored.entry.key.settings["number"] for stored in store.entries()]


def on_disk(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def test_entries_are_listed_least_recently_used_first(store: ArtifactStore, three: list[Artifact]) -> None:
    assert left(store) == [0, 1, 2]
    before = time.time()
    store.lookup(numbered(0))
    assert left(store) == [1, 2, 0]
    for stored in store.entries():
        assert stored.size == on_disk(stored.folder)
    assert before - 1 <= stored.last_used <= time.time() + 1
    assert store.size() == on_disk(store.root / "v1")


def test_prune_by_size_removes_the_least_recently_used(store: ArtifactStore, three: list[Artifact]) -> None:
    sizes = [stored.size for stored in store.entries()]
    report = store.prune(max_bytes=sum(sizes[1:]))
    assert (report.removed, report.freed, report.kept, report.size, report.in_use) == (
        1,
        sizes[0],
        2,
        sum(sizes[1:]),
        0,
    )
    assert left(store) == [1, 2]
    assert store.size() == report.size
    assert store.prune(max_bytes=sizes[2]).removed == 1
    assert left(store) == [2]


def test_prune_by_age_removes_the_old(store: ArtifactStore, three: list[Artifact]) -> None:
    assert store.prune(max_age_seconds=150).removed == 2
    assert left(store) == [2]
    assert store.prune(max_age_seconds=150).removed == 0


def test_prune_with_no_limit_keeps_everything_but_the_corrupt(store: ArtifactStore, three: list[Artifact]) -> None:
    (three[1].folder / "file").unlink()
    assert store.lookup(numbered(1)) is None
    assert store.size() == on_disk(store.root / "v1") + on_disk(store.root / "corrupt")
    report = store.prune()
    assert (report.removed, report.kept) == (1, 2)
    assert list((store.root / "corrupt").iterdir()) == []


def test_what_somebody_reads_stays(store: ArtifactStore, three: list[Artifact]) -> None:
    with ArtifactStore(store.root) as reader:
        artifact = reader.lookup(numbered(0))
        assert artifact is not None
        report = store.prune(max_bytes=0)
        assert (report.removed, report.kept, report.in_use) == (2, 1, 1)
        assert artifact.path.read_bytes() == bytes(1000)
    assert store.prune(max_bytes=0).removed == 1
    assert store.size() == 0


def test_what_was_just_stored_stays_until_the_store_is_closed(store: ArtifactStore, build: Any) -> None:
    artifact = build(store, numbered(1))
    with ArtifactStore(store.root) as other:
        assert other.prune(max_bytes=0).in_use == 1
        assert artifact.path.exists()
        store.close()
        assert other.prune(max_bytes=0).removed == 1


def test_what_somebody_builds_stays(store: ArtifactStore, three: list[Artifact]) -> None:
    with ArtifactStore(store.root) as builder, builder.lock(numbered(1)):
        assert store.prune(max_bytes=0).in_use == 1
        assert left(store) == [1]


def test_the_number_of_handles_is_bounded(store: ArtifactStore, build: Any) -> None:
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    for number in range(140):
        build(store, numbered(number))
    assert len(os.listdir("/dev/fd")) - before == 128  # noqa: PTH208
    with ArtifactStore(store.root) as other:
        assert other.prune(max_bytes=0).removed == 12
    store.close()
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


def test_wrecks_are_counted_and_pruned(store: ArtifactStore, three: list[Artifact]) -> None:
    places = [artifact.folder for artifact in three]
    shutil.rmtree(places[0])
    places[0].write_bytes(b"a file")
    shutil.rmtree(places[1])
    places[1].symlink_to(places[1])
    (places[2] / "record.json").unlink()
    assert left(store) == []
    assert store.prune(max_bytes=0).removed == 3
    assert not any(os.path.lexists(place) for place in places)


def test_what_the_user_keeps_in_the_same_folder_is_left_alone(store: ArtifactStore, three: list[Artifact]) -> None:
    """Somebody will name his home folder as the cache."""
    store.remember("fact", 1)
    store.verify()
    mine = [
        store.root / name
        for name in ("tmp/thesis", "tmp/thesis.lock", "memo/notes.json", "corrupt/files", "v1/lower/notes", "locks/x")
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    ArtifactStore(store.root).close()
    assert store.prune(max_bytes=0).removed == 3
    store.clear()
    assert [path.read_text() for path in mine] == ["mine"] * len(mine)
    assert store.recall("fact") is None


def test_verify_finds_the_corrupt_and_moves_only_them(store: ArtifactStore, three: list[Artifact]) -> None:
    size = store.size()
    assert store.verify().corrupt == ()
    three[1].path.chmod(0o644)
    three[1].path.write_bytes(bytes(1999) + b"\1")
    report = store.verify()
    assert (report.checked, report.size) == (3, size)
    assert len(report.corrupt) == 1
    assert "content changed" in report.corrupt[0]
    assert str(three[1].path) in report.corrupt[0]
    assert left(store) == [0, 2]
    assert store.verify().corrupt == ()


def test_clear_removes_everything(store: ArtifactStore, three: list[Artifact]) -> None:
    store.remember("fact", 1)
    (three[1].folder / "file").unlink()
    store.verify()
    report = store.clear()
    assert (report.removed, report.kept) == (3, 0)
    assert store.recall("fact") is None
    assert (store.size(), list(store.entries())) == (0, [])
    assert list((store.root / "tmp").iterdir()) == []


def test_verify_does_not_take_a_rebuilt_entry_away(store: ArtifactStore, three: list[Artifact]) -> None:
    """Two processes find the same entry corrupt; the slower one must not remove what the faster one built."""
    from trtpipe.store.layout import Layout
    from trtpipe.store.maintenance import quarantine

    assert quarantine(Layout(store.root, user_key()), three[0].folder) is False
    assert store.lookup(numbered(0)) is not None
