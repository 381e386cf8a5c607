from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from trtpipe.store.files import acquire, claim, is_at, locked, release, share, try_locked

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from trtpipe.store.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


def test_one_holder_at_a_time_and_no_file_left(path: Path) -> None:
    with try_locked(path) as first, try_locked(path) as second:
        assert (first, second) == (True, False)
    with try_locked(path) as again:
        assert again
    assert not path.exists()


def test_a_held_lock_is_refused_at_once_when_not_waiting(path: Path) -> None:
    with locked(path), pytest.raises(BlockingIOError):
        acquire(path, wait=False)


def test_many_threads_never_overlap(path: Path) -> None:
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locked(path):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not path.exists()


def test_a_killed_holder_leaves_no_stale_lock(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with try_locked(path) as ours:
            assert not ours
        process.send_signal(signal.SIGKILL)
        process.wait()
    with try_locked(path) as ours:
        assert ours


def test_waiting_is_reported_once(path: Path) -> None:
    told = threading.Event()
    calls = []

    def waiting() -> None:
        calls.append(1)
        told.set()

    def work() -> None:
        with locked(path, 0.05, waiting):
            pass

    handle = acquire(path)
    thread = threading.Thread(target=work)
    thread.start()
    assert told.wait(10)
    release(handle, path)
    thread.join()
    assert calls == [1]


def test_no_report_without_waiting(path: Path) -> None:
    waits: list[str] = []
    with locked(path, 0, lambda: waits.append("waited")):
        held = path.exists()
    assert held
    assert waits == []


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last holder removes the file between another's open and its flock: that flock guards nothing."""
    real = fcntl.flock
    seen = []

    def flock(handle: int, flags: int) -> None:
        if not seen:
            path.unlink()
        seen.append(os.fstat(handle).st_ino)
        real(handle, flags)

    monkeypatch.setattr(fcntl, "flock", flock)
    handle = acquire(path)
    assert len(seen) == 2
    assert is_at(handle, path)
    release(handle, path)


def test_a_link_in_the_place_of_a_lock_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        acquire(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_with_readers_cannot_be_claimed(path: Path) -> None:
    path.write_bytes(b"")
    reader, second, remover = (os.open(path, os.O_RDWR) for _ in range(3))
    share(reader)
    share(second)
    assert not claim(remover)
    os.close(reader)
    assert not claim(remover)
    os.close(second)
    assert claim(remover)
    os.close(remover)


def test_is_at_notices_a_replaced_file(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"")
    handle = os.open(path, os.O_RDONLY)
    assert is_at(handle, path)
    (tmp_path / "new").write_bytes(b"")
    (tmp_path / "new").replace(path)
    assert not is_at(handle, path)
    path.unlink()
    assert not is_at(handle, path)
    os.close(handle)
