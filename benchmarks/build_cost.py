"""What whole builds cost: CPU time by stage and peak memory, as multiples of plain inference of the samples.

    python benchmarks/build_cost.py [--builds int8 fallback fp16 best] [--samples 128] [--out RESULT.json]

A ResNet-50 of seeded random weights, built for sm89 with an empty cache by ``trtpipe build`` in a process of its own.
``int8`` is calibrated on smooth images, on which it holds its tolerance; ``fallback`` on white noise, which the network
hardly tells apart, so that layers have to be kept in higher precision. ``plain`` is onnxruntime running the samples of
the same file one by one and nothing else. CPU time is that of the process and all its children, and goes to the stage
whose end the log tells next; memory is that of all processes together, shared pages in equal parts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from benchmarks_common import machine_line, tree_cpu, tree_pss

HERE = Path(__file__).parent
SIDE, SHAPES = 224, "image:1x3x224x224"
#: build -> its option, and its data
BUILDS = {"int8": ("--int8", "smooth"), "fallback": ("--int8", "noise"), "fp16": ("--fp16", "smooth"),
          "best": ("--best", "smooth")}  # fmt: skip
#: What a build may cost, in runs of plain inference of the samples; and calibrate, with seconds beside.
LIMITS = {"int8": 4.0, "fallback": 6.0, "fp16": 2.5, "best": 5.0}
CALIBRATE, SECONDS, PEAK = 2.5, 5.0, 600
_DONE = re.compile(r"^(\w[\w ]*?): done")


@dataclass
class Cost:
    """Of one build: CPU seconds in all, wall seconds, MiB, the exit code; stage -> its CPU seconds and peak."""

    name: str
    cpu: float = 0.0
    wall: float = 0.0
    peak: float = 0.0
    code: int = 0
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def calibrating(self) -> float:
        """CPU seconds of ranges, corrections and fallback, with the pass over the data that they come from."""
        return sum(self.stages[name][0] for name in ("observe", "calibrate") if name in self.stages)


def write_data(path: Path, kind: str, samples: int) -> None:
    """Seeded images float32[samples,3,224,224]: white noise, or a few smooth shapes of random contrast."""
    random = np.random.default_rng(0)
    if kind == "noise":
        images = random.standard_normal((samples, 3, SIDE, SIDE), dtype=np.float32)
    else:
        coarse = random.standard_normal((samples, 3, 7, 7), dtype=np.float32)
        contrast = random.uniform(0.3, 1.5, (samples, 1, 1, 1)).astype(np.float32)
        images = contrast * coarse.repeat(SIDE // 7, axis=2).repeat(SIDE // 7, axis=3)
        images += 0.1 * random.standard_normal(images.shape, dtype=np.float32)
    np.savez(path, image=images)


def plain(model: Path, data: Path) -> float:
    """CPU seconds of all samples, one by one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()  # as ours: threads that wait must not count as work
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    images = np.load(data)["image"]
    begin = time.process_time()
    for index in range(len(images)):
        session.run(None, {"image": images[index : index + 1]})
    return time.process_time() - begin


def build(name: str, model: Path, folder: Path) -> Cost:
    """One build with an empty cache."""
    option, data = BUILDS[name]
    words = [option, "--calib-data", f"{folder / data}.npz", "--target", "sm89", "--shapes", SHAPES]
    command = [sys.executable, "-m", "trtpipe", "build", str(model), "-o", str(folder / name), *words]
    environment = {**os.environ, "TRTPIPE_CACHE_DIR": str(folder / f"cache-{name}")}
    cost, before, begin, peak = Cost(name), 0.0, time.perf_counter(), [0.0]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], tree_pss(process.pid) / 2**20)
            cost.peak = max(cost.peak, peak[0])
            cost.cpu = max(cost.cpu, tree_cpu(process.pid))
            time.sleep(0.3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stderr is not None
    for line in process.stderr:
        if found := _DONE.match(line):
            now = tree_cpu(process.pid)
            cost.stages[found[1]] = (now - before, peak[0])
            before, peak[0] = now, 0.0
    cost.code = process.wait()
    watcher.join()
    cost.wall = time.perf_counter() - begin
    return cost


def show(cost: Cost, alone: float) -> None:
    print(f"\n{cost.name}: {cost.cpu:.1f} CPU s, {cost.cpu / alone:.2f} x plain (at most {LIMITS[cost.name]:g}), peak "
          f"{cost.peak:.0f} MiB (at most {PEAK}), {cost.wall:.0f} s, exit {cost.code}")  # fmt: skip
    for stage, (seconds, peak) in cost.stages.items():
        print(f"  {stage:14} {seconds:7.1f} s {seconds / alone:6.2f} x {peak:6.0f} MiB")
    if "calibrate" in cost.stages:
        limit = f"{CALIBRATE:g} x + {SECONDS:g} s = {CALIBRATE * alone + SECONDS:.1f} s"
        print(f"  observe and calibrate: {cost.calibrating:.1f} s (at most {limit})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--builds", nargs="+", choices=list(BUILDS), default=list(BUILDS))
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plain", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        print(plain(*arguments.plain))
        return
    with tempfile.TemporaryDirectory() as work:
        folder, model = Path(work), Path(work, "resnet50.onnx")
        subprocess.run([sys.executable, HERE / "models.py", "resnet50", model], check=True, stdout=subprocess.DEVNULL)
        for kind in {BUILDS[name][1] for name in arguments.builds}:
            write_data(folder / f"{kind}.npz", kind, arguments.samples)
        data = folder / f"{BUILDS[arguments.builds[0]][1]}.npz"
        measure = [sys.executable, __file__, "--plain", model, data]

        def measured() -> float:
            return float(subprocess.run(measure, check=True, stdout=subprocess.PIPE, text=True).stdout)

        costs, alone, before = [], [], measured()
        for name in arguments.builds:  # plain inference before and after each: no machine is quiet
            costs.append(build(name, model, folder))
            after = measured()
            alone.append((before + after) / 2)
            before = after
            show(costs[-1], alone[-1])
    if arguments.out:
        rows = [
            {**asdict(cost), "plain": each, "ratio": cost.cpu / each} for cost, each in zip(costs, alone, strict=True)
        ]
        document = {"machine": machine_line(), "samples": arguments.samples, "builds": rows}
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
