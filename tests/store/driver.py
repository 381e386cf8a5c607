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
import stat
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.artifact import Draft
from trtpipe.errors import HostError
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
    except HostError:
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
            removed, over = 0, 0
            while time.monotonic() < end:
                report = store.prune(max_bytes=0)
                removed += report.removed
                over += report.kept > report.in_use  # one that nobody uses was kept beyond the limit
            Path(folder, f"removed-{os.getpid()}").write_text(f"{removed} {over}")

        pids = [fork(partial(read, key)) for key in (KEY, OTHER) * 4] + [fork(prune) for _ in range(2)]
        statuses = [status_of(pid) for pid in pids]
        counts = [path.read_text().split() for path in Path(folder).glob("removed-*")]
        with ArtifactStore(root) as store:
            corrupt = store.verify().corrupt
        removed, over = (sum(int(count[which]) for count in counts) for which in (0, 1))
        return {"statuses": statuses, "removed": removed, "over": over, "corrupt": corrupt}


class PowerCut:
    """What a disk holds at every moment if only what was synced is sure to be there.

    A file's bytes are sure after its fsync, a name in a folder after the folder's. Of what is not, all may be lost
    (``"lost"``), or the names may be kept and the bytes not (``"hollow"``), as file systems without journalled data do.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self.states: list[tuple[str, dict[str, bytes | None]]] = []

    def settle(self) -> None:
        """All that is there now is sure."""
        for folder, _, names in os.walk(self._root):
            self._names[os.lstat(folder).st_ino] = {path.name: os.lstat(path).st_ino for path in Path(folder).iterdir()}
            for name in names:
                self._bytes[os.lstat(Path(folder, name)).st_ino] = Path(folder, name).read_bytes()

    def synced(self, handle: int) -> None:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            found = os.scandir(handle)
            self._names[status.st_ino] = {entry.name: entry.inode() for entry in found}
        else:
            self._bytes[status.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()

    def remember(self) -> None:
        """Take down both ways in which the power could fail now."""
        hollow: dict[str, bytes | None] = {}
        inodes: dict[int, str] = {}
        for folder, folders, names in os.walk(self._root):
            for name in folders:
                inodes[os.lstat(Path(folder, name)).st_ino] = "folder"
                hollow[str(Path(folder, name).relative_to(self._root))] = None
            for name in names:
                inode = os.lstat(Path(folder, name)).st_ino
                hollow[str(Path(folder, name).relative_to(self._root))] = self._bytes.get(inode, b"")
        lost: dict[str, bytes | None] = {}
        if self._root.exists():
            self._walk(os.lstat(self._root).st_ino, "", inodes, lost)
        for state in (("hollow", hollow), ("lost", lost)):
            if state not in self.states:
                self.states.append(state)

    def _walk(self, folder: int, path: str, inodes: dict[int, str], found: dict[str, bytes | None]) -> None:
        for name, inode in self._names.get(folder, {}).items():
            if inode in self._names or inodes.get(inode) == "folder":
                found[f"{path}{name}"] = None
                self._walk(inode, f"{path}{name}/", inodes, found)
            else:
                found[f"{path}{name}"] = self._bytes.get(inode, b"")


def power_cuts(scene: str, *, honest: bool = True) -> dict[str, Any]:
    """Cut the power after every call of a scene, in both ways, and look at what the next process finds.

    Args:
        honest: whether the disk keeps what it is told to sync; one that does not shows that this can find a fault.
    """
    before, act = SCENES[scene]
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        root, states = Path(folder, "cache"), Path(folder, "states")
        with ArtifactStore(root) as store:
            before(store)

        def work() -> None:
            disk = PowerCut(root)
            disk.settle()
            real = os.fsync

            def fsync(handle: int) -> None:
                real(handle)
                if honest:
                    disk.synced(handle)

            os.fsync = fsync  # type: ignore[assignment]
            intercept(lambda name: None, disk.remember)
            act(ArtifactStore(root))
            disk.remember()
            done = [[how, {k: v if v is None else v.hex() for k, v in state.items()}] for how, state in disk.states]
            states.write_text(json.dumps(done))

        assert status_of(fork(work)) == 0
        found = json.loads(states.read_text())
        for number, (how, state) in enumerate(found):
            shutil.rmtree(root)
            lay_out(root, state)
            # What was not synced may come back hollow: then it is set aside, and never handed out.
            name = scene if scene == "remember" else f"{scene}, corrupt"
            wrong += [f"{scene} at {number} ({how}): {text}" for text in complaints(root, name)]
            if number >= len(found) - 2 and scene.startswith("put"):
                lay_out(root, state)
                with ArtifactStore(root) as store:
                    wrong += [] if content(store) == CONTENT else [f"{scene}: finished, and lost ({how})"]
    return {"states": len(found), "wrong": wrong}


def lay_out(root: Path, state: dict[str, str | None]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o700)
    for name, data in sorted(state.items()):
        if data is None:
            (root / name).mkdir(exist_ok=True, mode=0o700)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(bytes.fromhex(data))


def power_sweep() -> dict[str, Any]:
    return {scene: power_cuts(scene) for scene in ("put", "put-over-corrupt", "remember", "prune", "lookup-corrupt")}


if __name__ == "__main__":
    jobs = {
        "power": power_sweep,
        "lying disk": partial(power_cuts, "remember", honest=False),
        "prune long": partial(prune_against_readers, 60.0),
        "kill": kill_sweep,
        "error": error_sweep,
        "race": race,
        "prune": partial(prune_against_readers, 2.0),
    }
    sys.stdout.write(json.dumps(jobs[sys.argv[1]](), indent=1))
