"""What calibration costs: CPU time a sample and peak memory, ours and the peers', against plain inference.

    python benchmarks/calibration.py [--models resnet50 minilm] [--samples 32 128 512] [--peers FOLDER]
                                     [--peer-samples 128] [--out RESULT.json]

``plain`` is onnxruntime running the same samples and nothing else; ``trtpipe`` is the pass over the data with all that
belongs to it (every statistic, the account of the data, its digest). Both take the time of the work alone, and the peak
memory of their process (graphs run in it, not in a child as they do in a build, so that their time is counted).
What follows it, whatever the number of samples, has a figure of its own at the end: the ranges of 120 tensors by every
method.
``... end to end`` is whole processes, from the start of the interpreter to a quantised ONNX file: ours (without
repairs, which no peer makes) and, with ``--peers``, nvidia-modelopt and onnxruntime's quantiser, in an environment
that is made in FOLDER (2 GB). A peer that needs more than 10 GiB is stopped, and tried with a quarter of the samples.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import peers

HERE = Path(__file__).resolve().parent
#: model -> (input, shape of one sample)
INPUTS = {"resnet50": ("image", (1, 3, 224, 224)), "minilm": ("ids", (1, 64))}
_PEER_MEMORY = 10 << 30
_TENSORS, _VALUES = 120, 1 << 20


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
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--quantise", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quantise:
        quantise(*arguments.quantise)
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
    print(f"\nranges of {_TENSORS} tensors by every method: {seconds:.2f} s of CPU time")
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
        for samples in arguments.samples:
            for scheme in SCHEMES:
                yield in_child(name, scheme, samples, path)
        yield end_to_end(name, arguments.peer_samples, path)
        if arguments.peers is not None:
            for tool in peers.METHODS:
                yield from by_peer(peers.peer_python(arguments.peers), tool, name, arguments.peer_samples, path)


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
    """From the graph to the quantised graph in a process of its own, with an empty store."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        data = Path(work, "samples.npz")
        key, _ = INPUTS[name]
        np.savez(data, **{key: np.concatenate([feed[key] for feed in feeds(name, samples)])})
        cost = peers.timed([sys.executable, __file__, "--quantise", str(path), str(data), work])
    return Figure(name, "trtpipe entropy end to end", samples, cost.wall, cost.cpu, cost.peak, cost.error)


def quantise(model: Path, data: Path, work: Path) -> None:
    """What a user of the Python API writes, as peers.py does for the others: calibrate, and lower."""
    import trtpipe
    from trtpipe.recipe import CalibrationRecipe, DataSettings
    from trtpipe.settings import Settings

    job = trtpipe.make_job(
        profile=trtpipe.DeploymentProfile(precision="int8"),
        recipe=CalibrationRecipe(method="entropy", repair="none", data=DataSettings(source=str(data))),
        settings=Settings(cache_dir=work / "cache"),
        engines=False,
    )
    trtpipe.calibrate(job, model, work / "out")
    trtpipe.lower(job, model, work / "out", work / "out" / "ranges.json")


def by_peer(python: Path, tool: str, name: str, samples: int, path: Path) -> Iterator[Figure]:
    """A peer's quantisation; again with fewer samples where it fails."""
    data, out = path.with_suffix(".npz"), path.with_name("peer.onnx")
    for count in (samples, samples // 4, samples // 16):
        peers.write_feeds(data, feeds(name, count))
        cost = peers.quantise(python, tool, "entropy", path, data, out, _PEER_MEMORY)
        yield Figure(name, f"{tool} entropy end to end", count, cost.wall, cost.cpu, cost.peak, cost.error)
        if not cost.error:
            return


def feeds(name: str, samples: int) -> Iterator[dict[str, np.ndarray]]:
    """Seeded samples, one at a time."""
    key, shape = INPUTS[name]
    for index in range(samples):
        random = np.random.default_rng(index)
        if key == "ids":
            yield {key: random.integers(0, 30522, shape)}
        else:
            yield {key: random.standard_normal(shape, dtype=np.float32)}


def plain(name: str, samples: int, path: Path) -> Callable[[], None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()  # as ours: threads that wait must not count as work
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def work() -> None:
        for feed in feeds(name, samples):
            session.run(None, feed)

    return work


def ours(name: str, samples: int, path: Path) -> Callable[[], None]:
    """What ``trtpipe calibrate`` does with the data: every statistic, and the account with its digest."""
    import trtpipe
    from trtpipe.backends.base import load_backend
    from trtpipe.calibration.collect import collect
    from trtpipe.calibration.dataset import open_dataset
    from trtpipe.calibration.tally import TALLY
    from trtpipe.onnxfile import read_contract
    from trtpipe.recipe import DataSettings
    from trtpipe.settings import Settings
    from trtpipe.stages.observe import tensors_of, write_observed

    os.environ["TRTPIPE_BENCHMARK"] = f"{name} {samples}"
    observed = path.with_name(f"{name}-observed.onnx")
    tensors = tensors_of(path, ())
    write_observed(path, observed, tensors, half=False)
    dataset = open_dataset(DataSettings(source=f"{__file__}:stream"), read_contract(path))

    stack = ExitStack()
    runner = stack.enter_context(load_backend("onnxruntime").open(observed, Settings.in_child()))

    def work() -> None:
        with stack:
            collect(runner.reduced(TALLY, tensors), dataset, tensors, trtpipe.Silent())

    return work


SCHEMES: dict[str, Callable[[str, int, Path], Callable[[], None]]] = {"plain": plain, "trtpipe": ours}


def paired(name: str, path: Path, rounds: int = 64) -> float:
    """Median CPU time of one sample observed, with its statistics and account, over that of plain inference."""
    import onnxruntime

    from trtpipe.backends.base import load_backend
    from trtpipe.calibration.account import AccountBuilder
    from trtpipe.calibration.dataset import open_dataset
    from trtpipe.calibration.tally import TALLY
    from trtpipe.onnxfile import read_contract
    from trtpipe.recipe import DataSettings
    from trtpipe.settings import Settings
    from trtpipe.stages.observe import tensors_of, write_observed

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    observed, tensors = path.with_name(f"{name}-observed.onnx"), tensors_of(path, ())
    write_observed(path, observed, tensors, half=False)
    os.environ["TRTPIPE_BENCHMARK"] = f"{name} {rounds}"
    account = AccountBuilder(open_dataset(DataSettings(source=f"{__file__}:stream"), read_contract(path)))
    times: list[tuple[float, float]] = []
    with load_backend("onnxruntime").open(observed, Settings.in_child()) as runner:
        reduction = runner.reduced(TALLY, tensors)
        for feed in feeds(name, rounds):
            begin = time.process_time()
            session.run(None, feed)
            middle = time.process_time()
            reduction.run(feed)
            account.add(feed)
            times.append((middle - begin, time.process_time() - middle))
    alone, ours_too = np.median(np.array(times), axis=0)
    return float(ours_too / alone)


def stream() -> Iterator[dict[str, np.ndarray]]:
    """The samples as a data source of trtpipe's."""
    name, samples = os.environ["TRTPIPE_BENCHMARK"].split()
    return feeds(name, int(samples))


def every_range(statistics: object) -> None:
    """The ranges by every method."""
    from trtpipe.calibration.methods import CHOICES
    from trtpipe.calibration.ranges import range_of
    from trtpipe.calibration.statistics import Statistics

    assert isinstance(statistics, Statistics)
    for choice in CHOICES:
        for tensor, found in statistics.tensors.items():
            range_of(tensor, found, choice, "int8")


def derivation() -> float:
    """Seconds of CPU time for the ranges of 120 tensors of a million values each, of several distributions."""
    from trtpipe.calibration.statistics import Statistics

    statistics = Statistics.empty(f"tensor {index:03}" for index in range(_TENSORS))
    for index, tensor in enumerate(statistics.tensors.values()):
        random = np.random.default_rng(index)
        values = (random.standard_normal, random.standard_cauchy, random.standard_exponential)[index % 3](_VALUES)
        tensor.update(np.maximum(values, 0) if index % 2 else values)
    begin = time.process_time()
    every_range(statistics)
    return time.process_time() - begin


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
