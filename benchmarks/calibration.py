"""What calibration costs: CPU time a sample and peak memory, ours and the peers', against plain inference.

    python benchmarks/calibration.py [--models resnet50 minilm] [--samples 32 128 512] [--peers FOLDER]
                                     [--peer-samples 128] [--peer-memory 10] [--rounds 3] [--out RESULT.json]

``plain`` is onnxruntime running the same samples and nothing else; ``trtpipe`` is the pass over the data with all that
belongs to it (every statistic, the data summary, its digest). Both take the time of the work alone, and the peak
memory of their process (graphs run in it, not in a child as they do in a build, so that their time is counted).
What follows it, whatever the number of samples, has a figure of its own at the end: the ranges of 120 tensors by every
method.
``... end to end`` is whole processes, from the start of the interpreter to a quantized ONNX file: ours (without
corrections, which no peer makes) and, with ``--peers``, nvidia-modelopt and onnxruntime's quantizer, in an environment
that is made in FOLDER (2 GB). A peer that needs more than 10 GiB (or another limit) is stopped, and tried with a
quarter of the samples. All take turns for some rounds, and of each figure the median counts: no machine is quiet.
``paired`` runs the plain and the observed model in turn, sample by sample, in one process: the ratio that holds on a
machine with other work on it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import peers
from calibration_schemes import INPUTS, SCHEMES, TENSORS, derivation, feeds, paired, quantize

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Figure:
    """One measurement; memory in MiB, time in seconds."""

    model: str
    scheme: str
    samples: int
    wall: float
    cpu: float
    peak: float
    error: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(INPUTS), choices=list(INPUTS))
    parser.add_argument("--samples", nargs="*", type=int, default=[32, 128, 512])
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--peer-samples", type=int, default=128)
    parser.add_argument("--peer-memory", type=float, default=10.0, metavar="GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--quantize", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quantize:
        quantize(*arguments.quantize)
        return 0
    if arguments.child:
        name, scheme, samples, path = arguments.child
        print(json.dumps(asdict(measure(name, scheme, int(samples), Path(path)))))
        return 0
    figures: list[Figure] = []
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:
        for figure in run_all(arguments, Path(work)):
            figures.append(figure)
            print(f"{figure.model:9} {figure.scheme:26} {figure.samples:4} samples  {figure.wall:7.1f} s", flush=True)
        for name in arguments.models:
            ratios[name] = paired(name, Path(work, f"{name}.onnx"))
            print(f"paired: observing {name} takes {ratios[name]:.2f} times the CPU time of plain inference")
    report(figures)
    seconds = derivation()
    print(f"\nranges of {TENSORS} tensors by every method: {seconds:.2f} s of CPU time")
    if arguments.out:
        document = {
            "machine": machine(),
            "figures": [asdict(figure) for figure in figures],
            "paired_ratio": {name: round(ratio, 3) for name, ratio in ratios.items()},
            "derivation_seconds": round(seconds, 3),
        }
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def run_all(arguments: argparse.Namespace, work: Path) -> Iterator[Figure]:
    for name in arguments.models:
        path = work / f"{name}.onnx"
        subprocess.run([sys.executable, HERE / "models.py", name, path], check=True, stdout=subprocess.DEVNULL)
        runs = [partial(in_child, name, scheme, count, path) for count in arguments.samples for scheme in SCHEMES]
        runs.append(partial(end_to_end, name, arguments.peer_samples, path))
        if arguments.peers is not None:
            python, memory = peers.peer_python(arguments.peers), int(arguments.peer_memory * 2**30)
            runs += [
                partial(by_peer, python, tool, name, arguments.peer_samples, path, memory)
                for tool, methods in peers.METHODS.items()
                if "entropy" in methods
            ]
        rounds = [[run() for run in runs] for _ in range(arguments.rounds)]
        for found in zip(*rounds, strict=True):
            yield median(found)


def median(found: Sequence[Figure]) -> Figure:
    """The run with the median CPU time, with the median wall time and memory of all."""
    middle = sorted(found, key=lambda figure: figure.cpu)[len(found) // 2]
    walls, peaks = (sorted(getattr(figure, name) for figure in found) for name in ("wall", "peak"))
    return replace(middle, wall=walls[len(found) // 2], peak=peaks[len(found) // 2])


def in_child(name: str, scheme: str, samples: int, path: Path) -> Figure:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--child", name, scheme, str(samples), str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Figure(**json.loads(done.stdout.strip().splitlines()[-1]))


def measure(name: str, scheme: str, samples: int, path: Path) -> Figure:
    """Set up, then take the time of the pass alone; peak memory is that of the whole process."""
    work = SCHEMES[scheme](name, samples, path)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figure(name, scheme, samples, wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def end_to_end(name: str, samples: int, path: Path) -> Figure:
    """From the graph to the quantized graph in a process of its own, with an empty store."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        data = Path(work, "samples.npz")
        key, _ = INPUTS[name]
        np.savez(data, **{key: np.concatenate([feed[key] for feed in feeds(name, samples)])})
        cost = peers.timed([sys.executable, __file__, "--quantize", str(path), str(data), work])
    return Figure(name, "trtpipe entropy end to end", samples, cost.wall, cost.cpu, cost.peak, cost.error)


def by_peer(python: Path, tool: str, name: str, samples: int, path: Path, memory: int) -> Figure:
    """A peer's quantization; again with fewer samples where it fails."""
    data, out = path.with_suffix(".npz"), path.with_name("peer.onnx")
    for count in (samples, samples // 4, samples // 16):
        peers.write_feeds(data, feeds(name, count))
        cost = peers.quantize(python, tool, "entropy", path, data, out, memory)
        figure = Figure(name, f"{tool} entropy end to end", count, cost.wall, cost.cpu, cost.peak, cost.error)
        if not cost.error:
            break
        print(f"{tool} with {count} samples: {cost.error}", flush=True)
    return figure


def report(figures: list[Figure]) -> None:
    heads = f"{'wall s':>8} {'CPU s':>8} {'CPU ms/sample':>14} {'x plain':>8} {'peak MiB':>9} {'- plain':>8}"
    print(f"\n{'model':9} {'scheme':32} {'samples':>7} {heads}")
    for figure in figures:
        plain_ones = [other for other in figures if other.model == figure.model and other.scheme == "plain"]
        ratio, more = "", ""
        each = figure.cpu / figure.samples
        if plain_ones:
            base = min(plain_ones, key=lambda other: abs(other.samples - figure.samples))
            ratio, more = f"{each * base.samples / base.cpu:.2f}", f"{figure.peak - base.peak:.0f}"
        print(
            f"{figure.model:9} {figure.scheme:32} {figure.samples:7} {figure.wall:8.1f} {figure.cpu:8.1f} "
            f"{1e3 * each:14.1f} {ratio:>8} {figure.peak:9.0f} {more:>8} {figure.error}"
        )


def machine() -> dict[str, str | int]:
    import onnxruntime

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
