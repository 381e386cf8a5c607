from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trtpipe.errors import HostError
from trtpipe.store import ArtifactStore

if TYPE_CHECKING:
    from trtpipe.store import Key

HOLD = """
import sys
from pathlib import Path
from trtpipe.store import ArtifactStore
with ArtifactStore(Path(sys.argv[1])).workdir() as folder:
    (folder / "half").write_bytes(b"written")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_work_folder_is_private_empty_and_gone_afterwards(store: ArtifactStore) -> None:
    with store.workdir() as one, store.workdir() as other:
        assert one != other
        assert list(one.iterdir()) == []
        (one / "sub").mkdir()
        (one / "sub" / "file").write_bytes(b"")
        (one / "sub" / "file").chmod(0o444)
    assert list((store.root / "tmp").iterdir()) == []


def test_it_is_gone_after_an_error_too(store: ArtifactStore) -> None:
    def work() -> None:
        with store.workdir() as folder:
            (folder / "file").write_bytes(b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list((store.root / "tmp").iterdir()) == []


def test_errors_of_the_work_itself_are_not_reworded(store: ArtifactStore) -> None:
    with pytest.raises(OSError, match="the stage's own") as caught, store.workdir():
        raise OSError(errno.ENOSPC, "the stage's own")
    assert not isinstance(caught.value, HostError)


def test_orphans_of_a_killed_process_go_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        ArtifactStore(root).close()
        assert (folder / "half").read_bytes() == b"written"
        process.kill()
        process.wait()
    assert (folder / "half").exists()
    ArtifactStore(root).close()
    assert list((root / "tmp").iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_made_leaves_nothing(
    store: ArtifactStore, key: Key, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with store.workdir():
        pass
    with monkeypatch.context() as patched:

        def refuse(path: object, *args: object, **options: object) -> None:
            raise OSError(code, os.strerror(code), str(path))

        patched.setattr(Path, "mkdir", refuse)
        with pytest.raises(HostError, match="make a work folder"), store.workdir():
            pass
    assert list((store.root / "tmp").iterdir()) == []
    with store.lock(key):
        pass


def test_a_sweep_that_is_not_allowed_to_remove_does_not_fail(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.workdir():
        pass
    orphan = store.root / "tmp" / ("0" * 16)
    orphan.mkdir()
    orphan.with_suffix(".lock").write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with monkeypatch.context() as patched:
        for name in ("rmdir", "unlink"):
            patched.setattr(os, name, refuse)
        ArtifactStore(store.root).close()
    assert orphan.exists()
    ArtifactStore(store.root).close()
    assert list((store.root / "tmp").iterdir()) == []


def interrupt(store: ArtifactStore, key: Key, content: bytes) -> Path:
    """Begin to build ``key``, and be interrupted; the work folder."""
    folder = store.root
    try:
        with store.lock(key), store.resumable(key) as folder:
            (folder / "half").write_bytes(content)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return folder


class TestResumable:
    """The work folder of a build that may be interrupted."""

    def test_is_empty_at_first_and_gone_after_a_good_or_a_bad_end(self, store: ArtifactStore, key: Key) -> None:
        with store.lock(key), store.resumable(key) as folder:
            assert list(folder.iterdir()) == []
            (folder / "half").write_bytes(b"")
        assert not folder.exists()
        with store.lock(key), pytest.raises(HostError), store.resumable(key) as folder:
            raise HostError("the stage's own", "none")
        assert not folder.exists()

    def test_an_interruption_leaves_it_to_the_next_build_of_the_same_key(self, store: ArtifactStore, key: Key) -> None:
        interrupt(store, key, b"written")
        ArtifactStore(store.root).close()
        other = key.model_copy(update={"settings": {"seed": 1}})
        with store.lock(other), store.resumable(other) as empty:
            assert list(empty.iterdir()) == []
        with store.lock(key), store.resumable(key) as again:
            assert (again / "half").read_bytes() == b"written"

    def test_it_counts_as_space_and_goes_with_a_clear_unless_it_is_in_use(self, store: ArtifactStore, key: Key) -> None:
        folder = interrupt(store, key, b"x" * 100)
        assert store.size() == 100
        with store.lock(key):
            store.clear()
            assert folder.exists()
        store.clear()
        assert not folder.exists()

    def test_it_is_forgotten_after_a_week(self, store: ArtifactStore, key: Key) -> None:
        folder = interrupt(store, key, b"")
        ArtifactStore(store.root).close()
        assert folder.exists()
        os.utime(folder, (0, 0))
        ArtifactStore(store.root).close()
        assert not folder.exists()
