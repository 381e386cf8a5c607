"""Run as a script: whole builds killed at sampled points; prints one JSON document.

    python tests/hostile/kill_build.py POINTS [SEED]

A build is what ``trtpipe build`` does, with the work of its children done in the same process, so that every call that
opens, makes, renames or removes a file can be its last. After each kill the output folder must hold the earlier bundle
or the new one, or no manifest at all; the next run must succeed and leave nothing behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS / "store")]

from driver import MEMORY, Countdown, fork, intercept, status_of  # noqa: E402  the path comes first
from models import conv_net, save  # noqa: E402
from world import World, write_data  # noqa: E402

from trtpipe import api  # noqa: E402
from trtpipe.backends import null  # noqa: E402
from trtpipe.backends._child import resolve  # noqa: E402
from trtpipe.errors import InputError  # noqa: E402
from trtpipe.publish import publish_folder  # noqa: E402, F401
from trtpipe.report.manifest import Manifest  # noqa: E402
from trtpipe.stages import export, simplify  # noqa: E402


def here(task: str, request: Any, reply: Any, *, progress: Any, **rest: Any) -> Any:
    """A child's work, done in this process."""
    function, record = resolve(task)
    made = function(record.model_validate_json(request.model_dump_json()), progress.advance)
    return reply.model_validate(made.to_dict())


def build(folder: Path, percentile: float) -> None:
    world = World(folder)
    api.build(world.job(recipe={"percentile": percentile}), folder / "out")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Path, number: int) -> None:
    countdown = Countdown(number, die)
    intercept(countdown, countdown)
    build(folder, 99.5)
    (folder / "steps").write_text(str(countdown.steps))


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


def sweep(points: int, seed: int) -> dict[str, Any]:
    started = time.monotonic()
    for module in (export, simplify, null):
        setattr(module, "call", here)  # noqa: B010  replaced on purpose
    wrong: list[str] = []
    statuses: list[int] = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as top:
        template, folder = Path(top, "template"), Path(top, "world")
        template.mkdir()
        save(conv_net(), template / "net.onnx")
        write_data(template)
        assert (
            status_of(fork(partial(build, template, 99.9))) == 0
        )  # forked, so that this process stays single-threaded

        def fresh() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(template, folder, symlinks=True)

        fresh()
        assert status_of(fork(partial(killed, folder, 0))) == 0
        steps = int((folder / "steps").read_text())
        chosen = sorted(random.Random(seed).sample(range(1, steps + 1), min(points, steps)))
        for number in chosen:
            fresh()
            statuses.append(status_of(fork(partial(killed, folder, number))))
            found = complaints(folder)
            if status_of(fork(partial(build, folder, 99.5))):
                found.append("the next run failed")
            found += complaints(folder)
            if not (folder / "out" / "manifest.json").exists():
                found.append("no manifest after the next run")
            found += [
                f"orphan {path}" for path in (*(folder / "cache" / "tmp").glob("*"), *folder.glob("**/.trtpipe-*"))
            ]
            found += ["a good entry was set aside"] if (folder / "cache" / "corrupt").exists() else []
            wrong += [f"killed at {number}: {text}" for text in found]
    return {
        "steps": steps,
        "points": len(chosen),
        "seed": seed,
        "statuses": sorted(set(statuses)),
        "seconds": round(time.monotonic() - started, 1),
        "wrong": wrong,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(sweep(int(sys.argv[1]), int((sys.argv[2:3] or ["1"])[0])), indent=1))
