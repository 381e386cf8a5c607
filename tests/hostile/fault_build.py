"""Run as a script: whole builds in which one call of the file system is the last, or fails; prints one JSON document.

    python tests/hostile/fault_build.py WAY[,WAY...] POINTS [SEED]

A WAY is ``kill`` (SIGKILL before the call), the name of an error (``ENOSPC``, ``EIO``, ``EMFILE``, ...: the call fails
with it), ``short`` (all writes come up short, and nothing else), or a real shortage: ``tmpfs`` (a disk of so many kB,
needs root), ``handles`` (so many open files), ``file-size`` (files of so many bytes), at POINTS different sizes.

Calls are counted where the C library makes them (``faults.c``, compiled here with ``cc`` and preloaded), below the
folder of the build. A build is what ``trtpipe build`` does, with the work of its children done in the same process.
After each, the output folder must hold the earlier bundle or the new one, or no manifest at all; a failed build must
name the cause; the next run must succeed and leave nothing behind.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS / "store")]

from driver import MEMORY, fork, status_of  # noqa: E402  the path comes first
from models import conv_net, save  # noqa: E402
from world import World, write_data  # noqa: E402

from trtpipe.api import stages  # noqa: E402
from trtpipe.backends import null  # noqa: E402
from trtpipe.config.settings import Settings  # noqa: E402
from trtpipe.dynamic import check_corners  # noqa: E402
from trtpipe.errors import InputError, TrtpipeError  # noqa: E402
from trtpipe.exporter import process  # noqa: E402
from trtpipe.isolation.worker_main import resolve  # noqa: E402
from trtpipe.pipeline.publish import publish_folder  # noqa: E402, F401
from trtpipe.quantization import mac_count  # noqa: E402
from trtpipe.report.manifest import Manifest  # noqa: E402
from trtpipe.stages import export, simplify  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: What a build that fails must say, in any case of letters.
NAMED = {
    "ENOSPC": "no space",
    "EIO": "input/output error",
    "EMFILE": "too many open files",
    "EROFS": "read-only",
    "EDQUOT": "quota",
    "tmpfs": "no space",
    "handles": "too many open files",
    "file-size": "file too large",
}
DONE, REFUSED = 0, 3


def here(task: str, request: Any, reply: Any, **rest: Any) -> Any:
    """A child's work, done in this process."""
    function, record = resolve(task)
    made = function(record.model_validate_json(request.model_dump_json()), lambda phase, done, total: None)
    return reply.model_validate(made.to_dict())


def build(folder: Path, percentile: float) -> None:
    world = World(folder)
    settings = Settings(cache_dir=folder / "cache", isolate=False)
    stages.build(world.job(recipe={"percentile": percentile}, settings=settings), folder / "out")


def broken_build(folder: Path, said: Path, spoil: Callable[[], object]) -> None:
    """A build in which something fails; what it says of that."""
    spoil()
    try:
        build(folder, 99.5)
    except TrtpipeError as error:
        relax()
        said.write_text(f"{type(error).__name__}: {error.message}")
        os._exit(REFUSED)
    relax()
    said.write_text(str(LIBRARY.counted()))


LIBRARY = ctypes.CDLL(None)


def arm(folder: Path, number: int, code: int, *, short: bool = False) -> None:
    LIBRARY.arm(os.fsencode(folder) + b"/", ctypes.c_long(number), code, 0, int(short))


def relax() -> None:
    """No more faults in this process."""
    if hasattr(LIBRARY, "arm"):
        steps = LIBRARY.counted()
        LIBRARY.arm(b"", ctypes.c_long(0), 0, 0, 0)
        LIBRARY.counted = lambda: steps
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (resource.getrlimit(limit)[1],) * 2)


def complaints(folder: Path) -> list[str]:
    """What is wrong with an output folder; nothing should be."""
    out, found = folder / "out", []
    if (out / "manifest.json").exists():
        try:
            manifest = Manifest.read(out / "manifest.json")
        except InputError as error:
            return [f"a damaged manifest: {error}"]
        for artifact in manifest.artifacts:
            for entry in artifact.files:
                path = out / entry.name
                if not path.is_file() or type(entry).of(path) != entry:
                    found.append(f"{entry.name} is not what the manifest says")
    return found


def rebuilt(folder: Path) -> list[str]:
    """What is wrong after the next run."""
    found = complaints(folder)
    if status_of(fork(partial(build, folder, 99.5))):
        found.append("the next run failed")
    found += complaints(folder)
    if not (folder / "out" / "manifest.json").exists():
        found.append("no manifest after the next run")
    found += [f"orphan {path}" for path in (*(folder / "cache" / "tmp").glob("*"), *folder.glob("**/.trtpipe-*"))]
    return found + (["a good entry was set aside"] if (folder / "cache" / "corrupt").exists() else [])


class Scene:
    """A folder with an earlier bundle, made anew for every build that is to fail."""

    def __init__(self, top: Path) -> None:
        self._template, self.folder, self.said = top / "template", top / "world", top / "said"
        self._template.mkdir()
        save(conv_net(), self._template / "net.onnx")
        write_data(self._template)
        assert status_of(fork(partial(build, self._template, 99.9))) == 0  # forked, so that no thread is left here

    def fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a mounted one what is in it
        shutil.copytree(self._template, self.folder, symlinks=True, dirs_exist_ok=True)

    def run(self, spoil: Callable[[], object]) -> int:
        self.said.unlink(missing_ok=True)
        return status_of(fork(partial(broken_build, self.folder, self.said, spoil)))

    def words(self) -> str:
        return self.said.read_text() if self.said.exists() else ""


def spoilers(way: str, points: int, seed: int, scene: Scene) -> Iterable[tuple[int, Callable[[], object]]]:
    """So many different ways to fail, each with its number."""
    if way in {"handles", "file-size"}:
        low, step, limit = (8, 1, resource.RLIMIT_NOFILE) if way == "handles" else (0, 300, resource.RLIMIT_FSIZE)
        for number in range(low, low + points * step, step):
            yield number, partial(resource.setrlimit, limit, (number, resource.getrlimit(limit)[1]))
        return
    if way == "short":
        yield 1, partial(arm, scene.folder, 0, 0, short=True)
        return
    scene.fresh()
    assert scene.run(partial(arm, scene.folder, 0, 0)) == DONE
    steps = int(scene.words())
    code = -1 if way == "kill" else getattr(errno, way)
    for number in sorted(random.Random(seed).sample(range(1, steps + 1), min(points, steps))):
        yield number, partial(arm, scene.folder, number, code)


def verdict(way: str, status: int, words: str) -> list[str]:
    if way == "kill":
        return [] if status == -9 else [f"ended with {status}"]
    if status == REFUSED:
        return [] if NAMED[way] in words.lower() else [f"the cause is not named: {words}"]
    return [] if status == DONE else [f"ended with {status}: {words}"]


def sweep(ways: list[str], points: int, seed: int) -> dict[str, Any]:
    for module in (process, null):
        setattr(module, "call", here)  # noqa: B010  replaced on purpose
    process.call_user = here
    for module in (export, simplify, mac_count, check_corners):
        setattr(module, "call_forked", here)  # noqa: B010  replaced on purpose
    with tempfile.TemporaryDirectory(dir=MEMORY) as top:
        scene = Scene(Path(top))
        return {way: swept(way, points, seed, scene) for way in ways}


def swept(way: str, points: int, seed: int, scene: Scene) -> dict[str, Any]:
    started = time.monotonic()
    wrong: list[str] = []
    statuses: Counter[int] = Counter()
    try:
        for number, spoil in tight_disks(scene, points) if way == "tmpfs" else spoilers(way, points, seed, scene):
            scene.fresh()
            status = scene.run(spoil)
            statuses[status] += 1
            if way == "tmpfs":
                subprocess.run(["mount", "-o", "remount,size=64m", scene.folder], check=True)
            found = verdict(way, status, scene.words()) + rebuilt(scene.folder)
            wrong += [f"{way} at {number}: {text}" for text in found]
    finally:
        if way == "tmpfs":
            subprocess.run(["umount", scene.folder], check=True)
    seconds = round(time.monotonic() - started, 1)
    return {"points": sum(statuses.values()), "statuses": statuses, "seconds": seconds, "wrong": wrong}


def tight_disks(scene: Scene, points: int) -> Iterable[tuple[int, Callable[[], object]]]:
    """A real file system that the build fills: so much room beyond what lies there, in kB."""
    scene.folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", scene.folder], check=True)

    def shrink(room: int) -> None:
        used = os.statvfs(scene.folder)
        size = (used.f_blocks - used.f_bfree) * used.f_frsize + (room << 10)
        subprocess.run(["mount", "-o", f"remount,size={size}", scene.folder], check=True)

    for room in range(4, 4 + 16 * points, 16):
        yield room, partial(shrink, room)


def preloaded(words: list[str]) -> int:
    """This script again, with the faults in it."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "faults.so")
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        return subprocess.run([sys.executable, __file__, *words], env=environment, check=False).returncode


if __name__ == "__main__":
    if not hasattr(LIBRARY, "arm"):
        sys.exit(preloaded(sys.argv[1:]))
    sys.stdout.write(
        json.dumps(sweep(sys.argv[1].split(","), int(sys.argv[2]), int((sys.argv[3:4] or ["1"])[0])), indent=1)
    )
