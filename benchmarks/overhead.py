"""What the pipeline costs beside the libraries it calls, and how much memory it takes, on a ResNet-50-sized model.

    python benchmarks/overhead.py [--samples 32] [--precision int8] [--rounds 3]

Two ways to the same engine take turns in one session: `trtpipe build` with an empty cache, and a bare script that makes
the same library calls (onnx checker, onnxsim, onnxruntime, TensorRT-RTX, Polygraphy), each native one in a process of
its own as trtpipe does it, with no cache, digests, reports or corrections; once as installed, and once with torch
hidden from the libraries, which import it only to find no tensor of its kind. A build before the first round is not
counted: it leaves the bytecode that pip leaves of an installed package. Prints wall and processor times, their
ratios, the peak memory of trtpipe's process tree, and the wall time of a second, fully cached build.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks_common import machine_line, tree_memory

HERE = Path(__file__).parent

SHAPES = ["--min-shapes", "image:1x3x224x224", "--opt-shapes", "image:1x3x224x224", "--max-shapes", "image:8x3x224x224"]


class Cost(NamedTuple):
    """Of a command and all its children: seconds on the clock, seconds of processor time, peak private bytes."""

    wall: float
    processor: float
    memory: int


def watched(command: list[str], environment: dict[str, str], folder: Path | None = None) -> Cost:
    """Run a command to its end, in ``folder``."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = 0
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
    reader.start()
    while process.poll() is None:
        peak = max(peak, tree_memory(process.pid))
        time.sleep(0.05)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors[0][-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - begin, processor, peak)


def middle(values: Iterable[float]) -> float:
    """The median, for people."""
    return round(statistics.median(values), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="int8")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = work / "resnet50.onnx"
        subprocess.run(
            [sys.executable, str(HERE / "models.py"), "resnet50", str(model)], check=True, stdout=subprocess.DEVNULL
        )
        script = f"import numpy as np; r = np.random.default_rng(0); np.save('{work}/data.npy', "
        script += f"r.standard_normal(({arguments.samples}, 3, 224, 224), dtype=np.float32))"
        subprocess.run([sys.executable, "-c", script], check=True)
        ours, bare, torchless, cached = [], [], [], []
        for number in range(-1, arguments.rounds):
            environment = {**os.environ, "TRTPIPE_CACHE_DIR": str(work / f"cache{number}")}
            environment["PYTHONDONTWRITEBYTECODE"] = ""
            build = [
                sys.executable,
                "-m",
                "trtpipe",
                "build",
                str(model),
                f"--{arguments.precision}",
                "-o",
                str(work / "out"),
            ]
            build += [
                "--corrections",
                "none",
                "--calib-data",
                str(work / "data.npy"),
                "--target",
                "sm89",
                "--duration",
                "1s",
                *SHAPES,
            ]
            cost = watched(build, environment)
            if number < 0:
                continue
            ours.append(cost)
            cached.append(watched(build, environment))
            plain = [sys.executable, str(HERE / "overhead_bare.py"), str(model), str(work / "data.npy"), str(work)]
            bare.append(watched(plain, environment))
            torchless.append(watched(plain, {**environment, "HIDE_TORCH": "1"}))
    result = {
        "machine": machine_line(),
        "model": "ResNet-50-sized, 102 MB, seeded random weights",
        "precision": arguments.precision,
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "trtpipe_seconds": middle(cost.wall for cost in ours),
        "libraries_seconds": middle(cost.wall for cost in bare),
        "ratio": middle(a.wall / b.wall for a, b in zip(ours, bare, strict=True)),
        "libraries_seconds_without_torch": middle(cost.wall for cost in torchless),
        "ratio_without_torch": middle(a.wall / b.wall for a, b in zip(ours, torchless, strict=True)),
        "trtpipe_processor_seconds": middle(cost.processor for cost in ours),
        "libraries_processor_seconds": middle(cost.processor for cost in bare),
        "processor_ratio": middle(a.processor / b.processor for a, b in zip(ours, bare, strict=True)),
        "cached_seconds": middle(cost.wall for cost in cached),
        "peak_memory_mb": round(max(cost.memory for cost in ours) / 1e6),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
