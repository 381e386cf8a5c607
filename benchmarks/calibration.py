"""What calibration costs: CPU time a sample and peak memory, ours and the peers', against plain inference.

    python benchmarks/calibration.py [--models resnet50 minilm] [--samples 32 128 512] [--peer-samples 8]
                                     [--peers] [--out RESULT.json]

Every measurement runs in a process of its own. ``plain`` is onnxruntime running the same samples and nothing else.
onnxruntime's own calibrators keep every activation in memory, so they get few samples; time a sample does not depend
on their number. ``--peers`` also measures nvidia-modelopt in an environment that is made for it (gigabytes).
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
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
#: model -> (input, shape of one sample)
INPUTS = {"resnet50": ("image", (1, 3, 224, 224)), "minilm": ("ids", (1, 64))}
OURS = ("plain", "trtpipe")
ORT = ("ort-minmax", "ort-entropy", "ort-percentile")
MODELOPT = "modelopt-entropy"
_PEER_MEMORY = 10 << 30


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
    parser.add_argument("--samples", nargs="+", type=int, default=[32, 128, 512])
    parser.add_argument("--peer-samples", type=int, default=8)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, scheme, samples, path = arguments.child
        print(json.dumps(asdict(measure(name, scheme, int(samples), Path(path)))))
        return 0
    with tempfile.TemporaryDirectory() as work:
        figures = list(run_all(arguments, Path(work)))
    report(figures)
    if arguments.out:
        document = {"machine": machine(), "figures": [asdict(figure) for figure in figures]}
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def run_all(arguments: argparse.Namespace, work: Path) -> Iterator[Figure]:
    modelopt = peer_python(work) if arguments.peers else None
    for name in arguments.models:
        path = work / f"{name}.onnx"
        subprocess.run([sys.executable, HERE / "models.py", name, path], check=True, stdout=subprocess.DEVNULL)
        for samples in arguments.samples:
            for scheme in OURS:
                yield in_child(sys.executable, name, scheme, samples, path)
        for scheme in ORT:
            yield in_child(sys.executable, name, scheme, arguments.peer_samples, path)
        if modelopt is not None:
            yield in_child(modelopt, name, MODELOPT, arguments.peer_samples, path)


def in_child(python: str | Path, name: str, scheme: str, samples: int, path: Path) -> Figure:
    """Measure in a fresh process; peers may take 10 GiB at most."""

    def limit() -> None:
        if scheme not in OURS:
            resource.setrlimit(resource.RLIMIT_AS, (_PEER_MEMORY, _PEER_MEMORY))

    command = [str(python), __file__, "--child", name, scheme, str(samples), str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=limit)
    with suppress(ValueError, IndexError):
        figure = Figure(**json.loads(done.stdout.strip().splitlines()[-1]))
        print(f"{name:9} {scheme:16} {samples:4} samples  {figure.wall:7.1f} s  {figure.peak:6.0f} MiB", flush=True)
        return figure
    reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return Figure(name, scheme, samples, float("nan"), float("nan"), float("nan"), reason[:200])


def measure(name: str, scheme: str, samples: int, path: Path) -> Figure:
    """Set up, then take the time of the pass alone; peak memory is that of the whole process."""
    work = SCHEMES[scheme](name, samples, path)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figure(name, scheme, samples, wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


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

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def work() -> None:
        for feed in feeds(name, samples):
            session.run(None, feed)

    return work


def ours(name: str, samples: int, path: Path) -> Callable[[], None]:
    """Everything ``trtpipe calibrate`` does with the data: the pass, the account with its digest, all methods."""
    import trtpipe
    from trtpipe.backends.base import load_backend
    from trtpipe.calibration.collect import collect
    from trtpipe.calibration.dataset import open_dataset
    from trtpipe.calibration.methods import CHOICES
    from trtpipe.calibration.ranges import range_of
    from trtpipe.onnxfile import read_contract
    from trtpipe.recipe import DataSettings
    from trtpipe.settings import Settings
    from trtpipe.stages.observe import Observer, tensors_of, write_observed

    os.environ["TRTPIPE_BENCHMARK"] = f"{name} {samples}"
    observed = path.with_name(f"{name}-observed.onnx")
    tensors = tensors_of(path, ())
    write_observed(path, observed, tensors)
    dataset = open_dataset(DataSettings(source=f"{__file__}:stream"), read_contract(path))

    stack = ExitStack()
    runner = stack.enter_context(load_backend("onnxruntime").open(observed, Settings.from_environment()))

    def work() -> None:
        with stack:
            statistics = collect(Observer(runner, tensors), dataset, tensors, trtpipe.Silent())
        for choice in CHOICES:
            for tensor, found in statistics.tensors.items():
                range_of(tensor, found, choice, "int8")

    return work


def stream() -> Iterator[dict[str, np.ndarray]]:
    """The samples as a data source of trtpipe's."""
    name, samples = os.environ["TRTPIPE_BENCHMARK"].split()
    return feeds(name, int(samples))


def ort(method: str) -> Callable[[str, int, Path], Callable[[], None]]:
    """onnxruntime's own calibrator, on the inputs of weighted nodes and what it adds to them."""

    def setup(name: str, samples: int, path: Path) -> Callable[[], None]:
        from onnxruntime.quantization import calibrate

        options = {"symmetric": True} if method == "MinMax" else {"symmetric": True, "num_bins": 2048}
        calibrator = calibrate.create_calibrator(
            path,
            ["Conv", "MatMul", "Gemm"],
            augmented_model_path=str(path.with_name("augmented.onnx")),
            calibrate_method=getattr(calibrate.CalibrationMethod, method),
            extra_options=options,
        )

        def work() -> None:
            calibrator.collect_data(Reader(name, samples))
            calibrator.compute_data()

        return work

    return setup


class Reader:
    """Samples as onnxruntime and modelopt want them."""

    def __init__(self, name: str, samples: int) -> None:
        self._feeds = feeds(name, samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def modelopt(name: str, samples: int, path: Path) -> Callable[[], None]:
    from modelopt.onnx.quantization import quantize

    key, _ = INPUTS[name]
    data = {key: np.concatenate([feed[key] for feed in feeds(name, samples)])}

    def work() -> None:
        quantize(
            str(path),
            calibration_data=data,
            calibration_method="entropy",
            calibration_eps=["cpu"],
            output_path=str(path.with_name("modelopt.onnx")),
        )

    return work


SCHEMES: dict[str, Callable[[str, int, Path], Callable[[], None]]] = {
    "plain": plain,
    "trtpipe": ours,
    "ort-minmax": ort("MinMax"),
    "ort-entropy": ort("Entropy"),
    "ort-percentile": ort("Percentile"),
    MODELOPT: modelopt,
}


def peer_python(work: Path) -> Path:
    """An environment with nvidia-modelopt."""
    folder = work / "peers"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "nvidia-modelopt[onnx]"], check=True)
    return python


def report(figures: list[Figure]) -> None:
    heads = f"{'CPU ms/sample':>14} {'x plain':>8} {'peak MiB':>9} {'- plain':>8}"
    print(f"\n{'model':9} {'scheme':16} {'samples':>7} {heads}")
    for figure in figures:
        plain_ones = [other for other in figures if other.model == figure.model and other.scheme == "plain"]
        base = min(plain_ones, key=lambda other: abs(other.samples - figure.samples))
        each, reference = figure.cpu / figure.samples, base.cpu / base.samples
        print(
            f"{figure.model:9} {figure.scheme:16} {figure.samples:7} {1e3 * each:14.1f} {each / reference:8.2f} "
            f"{figure.peak:9.0f} {figure.peak - base.peak:8.0f} {figure.error}"
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
