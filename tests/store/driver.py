"""Run as a script: what a store goes through when processes die, the disk fails, or many work at once.

A process of its own, single-threaded, so that it can fork cheaply: hundreds of children take seconds.
Prints one JSON document; the tests judge it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.artifact import Draft
from trtpipe.errors import EnvironmentLacks
from trtpipe.store import ArtifactStore, Key

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = Key(stage="lower", settings={"percentile": 99.9}, inputs={"simplified": "ab" * 32})
OTHER = Key(stage="lower", settings={"percentile": 99.0}, inputs={"simplified": "ab" * 32})
CONTENT = {"lowered.onnx": b"graph" * 50, "lowered.onnx.data": b"weights" * 40}
#: Hundreds of stores are made and synced; in memory, where there is such a disk, that costs no waiting.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CALLS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "write", "fsync", "fchmod", "utime", "link")


def build(store: ArtifactStore, key: Key = KEY) -> None:
    """As the pipeline does it."""
    with store.lock(key):
        put(store, key)


def put(store: ArtifactStore, key: Key = KEY) -> None:
    with store.workdir() as folder:
        for name, data in CONTENT.items():
            (folder / name).write_bytes(data)
        store.put(key, Draft("lowered", folder, tuple(CONTENT)), seconds=1.0)


def write_elsewhere(store: ArtifactStore) -> None:
    folder = store.root.parent / "elsewhere"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)


def put_elsewhere(store: ArtifactStore) -> None:
    """As a stage that was not given a work folder of the store: the files have to be copied."""
    store.put(KEY, Draft("lowered", store.root.parent / "elsewhere", tuple(CONTENT)), seconds=1.0)


def damage(store: ArtifactStore) -> None:
    artifact = store.lookup(KEY)
    assert artifact is not None
    artifact.path.chmod(0o644)
    artifact.path.write_bytes(b"graph" * 49 + b"grapX")


def content(store: ArtifactStore, key: Key = KEY) -> dict[str, bytes] | None:
    artifact = store.lookup(key)
    return artifact and {file.name: (artifact.folder / file.name).read_bytes() for file in artifact.files}


def with_entries(store: ArtifactStore) -> None:
    build(store)
    build(store, OTHER)


def with_damage(store: ArtifactStore) -> None:
    build(store)
    damage(store)


def with_memo(store: ArtifactStore) -> None:
    store.remember("fact", "old")


def nothing(store: ArtifactStore) -> None:
    """Start from no store at all."""


def look_up(store: ArtifactStore) -> None:
    assert content(store) in (CONTENT, None)


#: name -> (what is there before, what is interrupted)
SCENES: dict[str, tuple[Callable[[ArtifactStore], None], Callable[[ArtifactStore], Any]]] = {
    "put": (nothing, build),
    "put-by-copy": (write_elsewhere, put_elsewhere),
    "put-over-corrupt": (with_damage, build),
    "lookup": (with_entries, look_up),
    "lookup-corrupt": (with_damage, look_up),
    "prune": (with_entries, lambda store: store.prune(max_bytes=0)),
    "verify": (with_damage, lambda store: store.verify()),
    "clear": (with_entries, lambda store: store.clear()),
    "remember": (with_memo, lambda store: store.remember("fact", "new")),
}


def intercept(before: Callable[[str], None], after: Callable[[], None]) -> None:
    """Have ``before`` and ``after`` called around every call that changes or opens a file."""

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            before(name)
            if name == "write":  # all writes come up short, as they may
                args = (args[0], bytes(args[1])[:100])
            result = function(*args, **options)
            after()
            return result

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))
        if hasattr(pathlib, "_normal_accessor") and name != "open":  # Python 3.10 keeps its own references
            setattr(pathlib._normal_accessor, name, getattr(os, name))
    fcntl.flock = wrap("flock", fcntl.flock)


class Countdown:
    """Does something at the ``number``-th step, and knows how many steps there were."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.steps, self.number, self.act = 0, number, act

    def __call__(self, *_: object) -> None:
        self.steps += 1
        if self.steps == self.number:
            self.act()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(number: int) -> Countdown:
    """Be killed before or after a call: steps 1 and 2 are the first one's."""
    countdown = Countdown(number, die)
    intercept(countdown, countdown)
    return countdown


def fail_at(number: int, code: int) -> Countdown:
    """Have one call fail with ``code``."""

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    countdown = Countdown(number, fail)
    intercept(countdown, lambda: None)
    return countdown


def fork(work: Callable[[], object]) -> int:
    """Run ``work`` in a child of its own; see :func:`status_of`."""
    if pid := os.fork():
        return pid
    status = 4
    try:
        work()
        status = 0
    except EnvironmentLacks:
        status = 3
    finally:
        if status == 4:
            traceback.print_exc()
        os._exit(status)


def status_of(pid: int) -> int:
    """How a child ended: 0 done, 3 a typed refusal, 4 anything else, -9 killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def complaints(root: Path, scene: str) -> list[str]:
    """What is wrong with the store that a broken operation left behind; nothing should be."""
    found = []
    store = ArtifactStore(root)
    found += [f"orphan {path.name}" for path in (root / "tmp").glob("*")]
    if "corrupt" not in scene and scene != "verify" and (root / "corrupt").exists():
        found.append("a good entry was set aside")
    if content(store) not in (CONTENT, None):
        found.append("neither old nor new")
    if scene == "remember" and store.recall("fact") not in {"old", "new"}:
        found.append(f"fact is {store.recall('fact')!r}")
    build(store)
    if content(store) != CONTENT:
        found.append("the next put failed")
    if store.verify().corrupt:
        found.append("corrupt entries left")
    return found


def sweep(scene: str, interrupt: Callable[[int], Countdown]) -> dict[str, Any]:
    """Interrupt a scene at its first step, then at its second, and so on to its last."""
    before, act = SCENES[scene]
    statuses = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        template, root, log = Path(folder, "template"), Path(folder, "cache"), Path(folder, "steps")
        with ArtifactStore(template) as store:
            before(store)

        def work(number: int) -> None:
            store = ArtifactStore(root)
            countdown = interrupt(number)
            act(store)
            log.write_text(str(countdown.steps))

        def run(number: int) -> int:
            shutil.rmtree(root, ignore_errors=True)
            if template.exists():
                shutil.copytree(template, root)
            return status_of(fork(partial(work, number)))

        assert run(0) == 0
        for number in range(1, int(log.read_text()) + 1):
            statuses.append(run(number))
            wrong += [f"{scene} at {number}: {complaint}" for complaint in complaints(root, scene)]
    return {"steps": len(statuses), "statuses": sorted(set(statuses)), "wrong": wrong}


def kill_sweep() -> dict[str, Any]:
    return {scene: sweep(scene, kill_at) for scene in SCENES}


def error_sweep() -> dict[str, Any]:
    tried = [("put", "ENOSPC"), ("put", "EMFILE"), ("put-by-copy", "EDQUOT"), ("put-over-corrupt", "EIO")]
    tried += [("lookup", "EMFILE"), ("lookup-corrupt", "EROFS"), ("prune", "EIO"), ("remember", "ENOSPC")]
    return {f"{scene} {code}": sweep(scene, partial(fail_at, code=getattr(errno, code))) for scene, code in tried}


def race() -> dict[str, Any]:
    """Eight processes want the same key; the first to build it is killed in the middle."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        root, log = Path(folder, "cache"), Path(folder, "log")

        def want(suicidal: bool) -> None:
            store = ArtifactStore(root)
            if content(store) is None:
                with store.lock(KEY):
                    if content(store) is None:
                        with log.open("a") as stream:
                            stream.write("build\n")
                        if suicidal:
                            os.kill(os.getpid(), signal.SIGKILL)
                        time.sleep(0.2)
                        put(store)
            assert content(store) == CONTENT

        killed = status_of(fork(partial(want, suicidal=True)))
        pids = [fork(partial(want, suicidal=False)) for _ in range(8)]
        statuses = [status_of(pid) for pid in pids]
        return {"killed": killed, "statuses": statuses, "builds": log.read_text().count("build")}


def prune_against_readers(seconds: float) -> dict[str, Any]:
    """Readers open what they were handed, again and again, while others prune everything and build it anew."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        root = Path(folder, "cache")
        end = time.monotonic() + seconds

        def read(key: Key) -> None:
            store = ArtifactStore(root)
            while time.monotonic() < end:
                artifact = store.lookup(key)
                if artifact is None:
                    build(store, key)
                    artifact = store.lookup(key)
                assert artifact is not None
                time.sleep(0.002)
                assert {f.name: (artifact.folder / f.name).read_bytes() for f in artifact.files} == CONTENT
                store.close()
                time.sleep(0.005)

        def prune() -> None:
            store = ArtifactStore(root)
            removed = 0
            while time.monotonic() < end:
                removed += store.prune(max_bytes=0).removed
            Path(folder, f"removed-{os.getpid()}").write_text(str(removed))

        pids = [fork(partial(read, key)) for key in (KEY, KEY, KEY, OTHER, OTHER)] + [fork(prune) for _ in range(2)]
        statuses = [status_of(pid) for pid in pids]
        removed = sum(int(path.read_text()) for path in Path(folder).glob("removed-*"))
        with ArtifactStore(root) as store:
            return {"statuses": statuses, "removed": removed, "corrupt": store.verify().corrupt}


if __name__ == "__main__":
    jobs = {
        "kill": kill_sweep,
        "error": error_sweep,
        "race": race,
        "prune": partial(prune_against_readers, 2.0),
    }
    sys.stdout.write(json.dumps(jobs[sys.argv[1]](), indent=1))
