"""Run as a script: builds with the user's functions in children, killed at random moments; prints one JSON document.

    python tests/hostile/user_kills.py KILLS [SEED]

Every build (a factory, a data function and a metric that evaluates) goes into the same output folder and cache. It is
killed (SIGKILL) after a random time up to what a whole one takes: the command itself, one of its processes, or all of
them at once, by turns. After each, no process is left, and the output folder holds a whole bundle or none; at the end,
the next build succeeds and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
MARK = "TRTPIPE_TEST_OF_KILLS"
CODE = """
import numpy as np

def feeds():
    for index in range(8):
        yield {"input": np.random.default_rng(index).standard_normal((2, 3, 16, 16)).astype(np.float32)}

def evaluate(run):
    return {"mean": float(np.mean([next(iter(run(feed).values())).mean() for feed in feeds()]))}

def network():
    import torch
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3, padding=1)
    return torch.nn.Sequential(*layers).eval(), (torch.zeros(2, 3, 16, 16),)
"""
WAYS = ("command", "child", "all")
#: Seconds that processes have to end after their parent.
LAST = 10.0


class Scene:
    """A folder with the user's code; one cache and one output folder for all builds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{MARK}={folder.name}"
        (folder / "code.py").write_text(CODE, encoding="utf-8")
        self.number = 0

    def start(self) -> subprocess.Popen[bytes]:
        """A build that cannot take everything from the store: its ranges are others each time."""
        self.number += 1
        code, recipe = self.folder / "code.py", self.folder / "recipe.toml"
        recipe.write_text(f"percentile = {99 + self.number % 997 / 1000}\n", encoding="utf-8")
        words = ["build", f"{code}:network", "--int8", "--calib-data", f"{code}:feeds", "--metric", f"{code}:evaluate",
                 "--backend", "null", "--target", "sm89", "--duration", "5ms", "--atol", "9", "--max-drop", "900%",
                 "--calib", str(recipe), "-o", str(self.folder / "out")]  # fmt: skip
        name, _, value = self.mark.partition("=")
        environment = {**os.environ, name: value, "TRTPIPE_CACHE_DIR": str(self.folder / "cache"),
                       "XDG_CONFIG_HOME": str(self.folder / "config"), "PYTHONPATH": str(TESTS.parent)}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "trtpipe", *words], env=environment, cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=(self.folder / "said").open("wb"),
        )  # fmt: skip

    def processes(self) -> list[int]:
        """All that carry the mark in their environment, or whose parent does."""
        found, parents = set(), {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        found.add(int(entry.name))
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def complaints(self) -> list[str]:
        """What is wrong after a kill."""
        end = time.monotonic() + LAST
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        found = [f"processes are left: {left}"] if left else []
        manifest = self.folder / "out" / "manifest.json"
        if manifest.exists():
            for artifact in json.loads(manifest.read_text())["artifacts"]:
                for file in artifact["files"]:
                    path = self.folder / "out" / file["name"]
                    if not path.exists() or sha256(path.read_bytes()).hexdigest() != file["sha256"]:
                        found.append(f"{file['name']} is not what the manifest says")
        return found


def kill(way: str, build: subprocess.Popen[bytes], scene: Scene, chance: random.Random) -> None:
    with suppress(ProcessLookupError):
        if way == "command":
            build.kill()
            return
        children = [process for process in scene.processes() if process != build.pid]
        if way == "child":
            os.kill(chance.choice(children or [build.pid]), signal.SIGKILL)
            return
        for process in (build.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def sweep(kills: int, seed: int) -> dict[str, Any]:
    chance, codes, failures = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        whole = []
        for _ in range(2):  # the second one finds what does not change in the cache
            begin = time.monotonic()
            if code := scene.start().wait():
                raise SystemExit(f"a build that nobody kills ended with {code}: {(scene.folder / 'said').read_text()}")
            whole.append(time.monotonic() - begin)
        for number in range(kills):
            way, build = WAYS[number % len(WAYS)], scene.start()
            with suppress(subprocess.TimeoutExpired):
                build.wait(chance.uniform(0, whole[1]))
            kill(way, build, scene, chance)
            code = build.wait()
            codes[f"{way}: {code}"] += 1
            troubles = scene.complaints()
            if b"Traceback" in (scene.folder / "said").read_bytes() or code == 1:
                troubles.append(f"exit code {code}: {(scene.folder / 'said').read_text()[-300:]}")
            failures += [f"kill {number} ({way}): {trouble}" for trouble in troubles]
        last = scene.start().wait()
        left = [str(path) for path in (scene.folder / "cache" / "tmp").glob("*")]
        failures += [f"left behind: {left}"] if left else []
        failures += [f"the next build ended with {last}"] if last else []
        failures += scene.complaints()
    return {"kills": kills, "seed": seed, "whole build": whole, "exit codes": codes, "failures": failures}


if __name__ == "__main__":
    found = sweep(int(sys.argv[1]), int((sys.argv[2:3] or ["1"])[0]))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(found["failures"]))
